package classify

import (
	"bytes"
	"fmt"

	"github.com/sallyport/sallyport/internal/mask"
)

// Report is what a scan found. It holds no values.
type Report struct {
	Tables    int       `json:"tables"`
	Columns   int       `json:"columns"`
	Known     int       `json:"known"`     // columns that a class names already
	Rows      int       `json:"rows"`      // that were looked into
	Proposals []Finding `json:"proposals"` // columns for a class
	Seldom    []Finding `json:"seldom"`    // columns with such values now and then: for a detector
	Doubtful  []Finding `json:"doubtful"`  // columns whose name says what no value confirms
	Refused   []Refusal `json:"refused"`   // tables that were judged by their names alone
}

// Finding is what speaks for a class of one column.
type Finding struct {
	Column
	Class    string `json:"class"`
	Mask     string `json:"mask"`
	Detector string `json:"detector,omitempty"` // that finds such values
	ByName   bool   `json:"by_name"`
	Found    int64  `json:"found"`  // values in which the detector found something
	Values   int64  `json:"values"` // that were neither NULL, empty nor masked
	Masked   int64  `json:"masked"` // values that came masked already
}

// Refusal is a table that could not be sampled.
type Refusal struct {
	Table string `json:"table"`
	Why   string `json:"why"`
	Hint  string `json:"hint,omitempty"`
}

// Why says in a few words what speaks for the class.
func (f Finding) Why() string {
	switch {
	case f.Masked > 0:
		return fmt.Sprintf("by its name, and %d values came masked", f.Masked)
	case f.Detector == "" || f.Found == 0:
		return "by its name"
	case f.ByName:
		return fmt.Sprintf("by its name, and %d of %d values", f.Found, f.Values)
	}
	return fmt.Sprintf("%d of %d values", f.Found, f.Values)
}

// judged is a column while its sample is read.
type judged struct {
	Column
	named  *kind
	values int64
	masked int64
	hits   map[string]int64 // values with a hit, by detector

	hidden []byte
	counts map[string]int64
}

// stars are what masks leave of a value.
var stars = []byte("***")

// see looks into one value; NULL and "" tell nothing, and a masked one only that somebody classified it.
func (j *judged) see(f *mask.Finder, v []byte) {
	switch {
	case len(v) == 0:
		return
	case bytes.Contains(v[:min(len(v), maxLook)], stars):
		j.masked++
		return
	}
	j.values++
	if j.counts == nil {
		j.counts = map[string]int64{}
	}
	clear(j.counts)
	j.hidden, _ = f.Append(j.hidden[:0], v[:min(len(v), maxLook)], j.counts)
	for d := range j.counts {
		j.hits[d]++
	}
}

// Shares of values that must be of a kind before the whole column counts as it. A whole number is a card by chance once in a hundred.
const (
	share       = 0.5
	shareNumber = 0.8
)

// enough is how many values must have been seen before their silence speaks against a name.
const enough = 10

// add sorts a judged column into the report.
func (r *Report) add(j *judged) {
	least := share
	if j.category == "N" {
		least = shareNumber
	}
	var most *kind // whose detector found the most
	for i := range kinds {
		if k := &kinds[i]; k.detector != "" && j.hits[k.detector] > 0 && (most == nil || j.hits[k.detector] > j.hits[most.detector]) {
			most = k
		}
	}
	k := j.named
	switch {
	case most != nil && float64(j.hits[most.detector]) >= least*float64(j.values):
		if k == nil || k.detector != "" || k.class == most.class { // a name without a detector says more than a value inside
			k = most
		}
		r.Proposals = append(r.Proposals, j.finding(k))
	case k != nil && k.strict && j.hits[k.detector] == 0 && j.values >= enough:
		r.Doubtful = append(r.Doubtful, j.finding(k))
	case k != nil:
		r.Proposals = append(r.Proposals, j.finding(k))
	case most != nil && j.category != "N":
		r.Seldom = append(r.Seldom, j.finding(most))
	}
}

func (j *judged) finding(k *kind) Finding {
	return Finding{
		Column: j.Column, Class: k.class, Mask: k.mask, Detector: k.detector, ByName: j.named == k, Found: j.hits[k.detector], Values: j.values, Masked: j.masked,
	}
}
