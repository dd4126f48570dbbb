package postgres

import (
	"fmt"
	"testing"
)

func BenchmarkAnalyse(b *testing.B) {
	cat := handCatalogue(b)
	st := session{database: "db", role: "r", searchPath: `"$user", public`}
	for name, sql := range map[string]string{
		"lookup": "SELECT id, name, email FROM customers WHERE id = $1",
		"update": "UPDATE orders SET amount = amount + $1 WHERE id = $2",
	} {
		b.Run(name+"/cached", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c, _ := analyse(sql, nil, st, cat, defaultLimits); !c.Complete {
					b.Fatal(c.Why)
				}
			}
		})
		b.Run(name+"/uncached", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if f := study(sql, st, cat, defaultLimits); !f.command.Complete {
					b.Fatal(f.command.Why)
				}
			}
		})
	}
}

func TestCacheIsBounded(t *testing.T) {
	cat := handCatalogue(t)
	st := session{database: "db", role: "r", searchPath: "public"}
	for i := range 3 * maxCachedFacts {
		analyse(fmt.Sprintf("select %d", i), nil, st, cat, defaultLimits)
	}
	if n := len(cat.facts.byKey); n != maxCachedFacts || cat.facts.used.Len() != n {
		t.Errorf("%d facts are kept", n)
	}
}

// The state is part of the key: the same text under another search path means other tables.
func TestCacheKnowsState(t *testing.T) {
	cat := handCatalogue(t)
	a, _ := analyse("select id from customers", nil, session{database: "db", searchPath: "public"}, cat, defaultLimits)
	b, _ := analyse("select id from customers", nil, session{database: "db", searchPath: "app"}, cat, defaultLimits)
	if !a.Complete || b.Complete {
		t.Errorf("complete: %v under public, %v under app", a.Complete, b.Complete)
	}
	c, _ := analyse("select v from secrets", nil, session{database: "db", searchPath: "hidden, public"}, cat, defaultLimits)
	if c.Complete {
		t.Error("a schema that the role may not use is searched")
	}
}
