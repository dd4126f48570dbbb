package mask

import (
	"encoding/binary"
	"time"
)

// cut is what a date is cut to.
type cut uint8

const (
	toYear cut = iota
	toMonth
	toDay
)

var cuts = map[string]cut{"year": toYear, "month": toMonth, "day": toDay}

// appendDate cuts a text that begins with an ISO date, YYYY-MM-DD. What follows the date becomes the beginning of the day in the same
// form: digits of a time become zeros, a fraction goes, the zone stays. Any other text shows nothing.
func (m Masker) appendDate(dst, v []byte) []byte {
	const iso = 10
	if len(v) < iso || len(v) > 40 || !isoDate(v[:iso]) {
		return append(dst, Hidden...)
	}
	rest := v[iso:]
	if len(rest) > 0 && rest[0] != ' ' && rest[0] != 'T' {
		return append(dst, Hidden...)
	}
	at := len(dst)
	dst = append(dst, v[:iso]...)
	if m.cut != toDay {
		dst[at+8], dst[at+9] = '0', '1'
	}
	if m.cut == toYear {
		dst[at+5], dst[at+6] = '0', '1'
	}
	zone, fraction := false, false
	for i, c := range rest {
		switch {
		case i == 0:
		case c == '+', c == '-', c == 'Z':
			zone = true
		case !digit(c) && c != ':' && c != '.':
			return append(dst[:at], Hidden...)
		case c == '.', fraction && !zone:
			fraction = true
			continue
		case digit(c) && !zone:
			c = '0'
		}
		dst = append(dst, c)
	}
	return dst
}

func isoDate(v []byte) bool {
	for i, c := range v {
		if i == 4 || i == 7 {
			if c != '-' {
				return false
			}
		} else if !digit(c) {
			return false
		}
	}
	return v[5] <= '1' && v[8] <= '3'
}

// PostgreSQL's binary dates count from here, days or microseconds.
var epoch2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const microsecondsOfDay = 24 * 60 * 60 * 1_000_000

// cutDays cuts a count of days since 2000. The extremes mean infinity and say nothing but that: they become the epoch.
func (m Masker) cutDays(days int64) int64 {
	const most = 4_000_000 // some ten thousand years: what package time and a client can say
	if days < -most || days > most {
		return 0
	}
	y, mo, d := epoch2000.AddDate(0, 0, int(days)).Date()
	if m.cut != toDay {
		d = 1
	}
	if m.cut == toYear {
		mo = 1
	}
	return int64(time.Date(y, mo, d, 0, 0, 0, 0, time.UTC).Sub(epoch2000) / (24 * time.Hour))
}

// appendBinaryDate cuts a binary date (4 bytes) or timestamp (8 bytes).
func (m Masker) appendBinaryDate(dst, v []byte, s Shape) []byte {
	switch {
	case s == DateOnly && len(v) == 4:
		return binary.BigEndian.AppendUint32(dst, uint32(int32(m.cutDays(int64(int32(binary.BigEndian.Uint32(v)))))))
	case (s == Timestamp || s == Zoned) && len(v) == 8:
		us := int64(binary.BigEndian.Uint64(v))
		days := us / microsecondsOfDay
		if us%microsecondsOfDay < 0 {
			days--
		}
		return binary.BigEndian.AppendUint64(dst, uint64(m.cutDays(days)*microsecondsOfDay))
	}
	return append(dst, binaries[s]...)
}
