package postgres

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// logged is a statement of a client's session, as a server's log has it: see testdata/README.md.
type logged struct {
	Text  string    `json:"q"`
	Args  []*string `json:"p"`   // the values bound; nil where it came by the simple protocol
	Fresh int       `json:"new"` // 1 where a session begins
}

// clientLogs reads the statements, by suite.
func clientLogs(t testing.TB) map[string][]logged {
	t.Helper()
	f, err := os.Open("testdata/clients.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]logged{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(path.Base(h.Name), ".jsonl")
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var l logged
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				t.Fatal(err)
			}
			out[name] = append(out[name], l)
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOracleClients judges what the suites of drivers, object mappers and PostgreSQL's own programs sent to a server: with ORACLE set to
// all, everything, otherwise those programs.
func TestOracleClients(t *testing.T) {
	all := os.Getenv("ORACLE") == "all"
	if os.Getenv("ORACLE") != "" {
		t.Parallel()
	}
	logs := clientLogs(t)
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		if !all && name != "tools" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			o := newOracle(t, "client_"+strings.ReplaceAll(name, "-", "_"))
			defer o.close()
			o.file = name
			for _, l := range logs[name] {
				if l.Fresh == 1 || o.conn == nil {
					o.connect()
				}
				o.args = nil
				if l.Args != nil {
					o.args = make([][]byte, len(l.Args))
					for i, a := range l.Args {
						if a != nil {
							o.args[i] = []byte(*a)
						}
					}
				}
				o.judge(l.Text)
			}
			o.verdict(985) // drivers' suites send a table's definition and its first rows in one message
		})
	}
}
