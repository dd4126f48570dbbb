package agents_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/agents"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/internal/brokertest"
	"github.com/sallyport/sallyport/internal/store"
	"github.com/sallyport/sallyport/internal/store/storetest"
	"github.com/sallyport/sallyport/internal/token"
)

func evidence(time.Time) (store.Write, error) {
	return store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "p", SK: "r"}, Body: []byte("[]")}}, nil
}

func identity(t *testing.T, w *brokertest.World, name access.AgentName) token.Agent {
	t.Helper()
	a, err := token.ParseAgent(w.Agent(name, "app").Cert)
	brokertest.Must(t, err)
	return a
}

func TestRevokeUnderFaults(t *testing.T) {
	for n := 1; n <= 2; n++ {
		for _, fault := range []storetest.Fault{storetest.NotApplied, storetest.Applied} {
			w := brokertest.New(t)
			a := identity(t, w, "edge")
			count := 0
			w.Faults.Set(func(string, string) storetest.Fault {
				if count++; count == n {
					return fault
				}
				return storetest.None
			})
			rev := agents.Revocation{Agent: "edge", By: "adam", Now: w.Now()}
			if _, err := agents.Revoke(t.Context(), w.Items, rev, evidence); err == nil {
				t.Errorf("fault %d was swallowed", n)
			}
			w.Faults.Set(nil)
			retry := func(time.Time) (store.Write, error) {
				return store.Write{Table: store.Audit, Item: store.Item{Key: store.Key{PK: "p", SK: "r2"}, Body: []byte("[]")}}, nil
			}
			r, err := agents.Revoke(t.Context(), w.Items, rev, retry)
			brokertest.Must(t, err)
			if r.Good(a.Issued) == nil || r.Good(r.After(w.Now())) != nil {
				t.Errorf("%+v", r)
			}
		}
	}
}

func TestGuard(t *testing.T) {
	w := brokertest.New(t)
	a := identity(t, w, "edge")
	g := agents.NewGuard(w.Items, w.Now)
	reads := 0
	w.Faults.Set(func(op, _ string) storetest.Fault {
		if op == "get" {
			reads++
		}
		return storetest.None
	})
	for range 100 {
		brokertest.Must(t, g.Check(t.Context(), a))
	}
	if reads != 1 {
		t.Errorf("%d reads for a hundred calls within a second", reads)
	}
	if _, err := agents.Revoke(context.Background(), w.DB, agents.Revocation{Agent: "edge", By: "adam", Now: w.Now()}, evidence); err != nil {
		t.Fatal(err)
	}
	w.Advance(time.Second)
	if err := g.Check(t.Context(), a); !errors.Is(err, api.ErrRevoked) {
		t.Errorf("a second later: %v", err)
	}
	other := identity(t, w, "core")
	brokertest.Must(t, g.Check(t.Context(), other))
	// A record that cannot be read says nothing good.
	brokertest.Must(t, w.DB.Put(t.Context(), store.Write{Table: store.Registry, Item: store.Item{Key: agents.Key("odd"), Body: []byte(`{"name":"edge"}`)}}))
	if err := g.Check(t.Context(), token.Agent{Name: "odd", Issued: w.Now()}); err == nil {
		t.Error("a record of another agent counts")
	}
	if err := (agents.Record{}).Good(time.Time{}); err == nil {
		t.Error("a certificate of no time counts")
	}
}

// Who was revoked is listed for as long as a certificate of before it could be good; the list is bounded, and read once a second.
func TestRevokedAreListed(t *testing.T) {
	w := brokertest.New(t)
	r := agents.NewRevoked(w.Items, w.Now)
	if all, err := r.Agents(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("%v %v", all, err)
	}
	add := func(name access.AgentName) {
		t.Helper()
		brokertest.Must(t, agents.List(t.Context(), w.Items, agents.Record{Name: name, RevokedBefore: w.Now()}, w.Now()))
	}
	add("edge")
	w.Advance(time.Second)
	add("core")
	add("core") // again: one line
	w.Advance(time.Second)
	all, err := r.Agents(t.Context())
	if err != nil || len(all) != 2 || all[0].Agent != "edge" || all[1].Agent != "core" {
		t.Fatalf("%v %v", all, err)
	}
	w.Advance(token.CertificateLife + time.Hour)
	add("third")
	w.Advance(time.Second)
	if all, err := r.Agents(t.Context()); err != nil || len(all) != 1 || all[0].Agent != "third" {
		t.Errorf("%v %v", all, err)
	}
	w.Advance(time.Second)
	w.Faults.Set(storetest.Nth("get", 1, storetest.NotApplied))
	if all, err := r.Agents(t.Context()); !errors.Is(err, api.ErrUnavailable) || all != nil {
		t.Errorf("without an answer: %v %v", all, err)
	}
	w.Faults.Set(nil)
	k := store.Key{PK: "agents", SK: "#revoked"}
	it, err := w.DB.Get(t.Context(), store.Registry, k, true)
	brokertest.Must(t, err)
	var full []api.RevokedAgent
	for i := range 500 {
		full = append(full, api.RevokedAgent{Agent: access.AgentName(fmt.Sprintf("a%d", i)), Before: w.Now().Add(-time.Minute)})
	}
	body, err := json.Marshal(full)
	brokertest.Must(t, err)
	brokertest.Must(t, w.DB.Put(t.Context(), store.Write{Table: store.Registry, Item: store.Item{Key: k, Body: body}, Cond: store.Cond{Version: it.Version}}))
	for i := range 3 {
		add(access.AgentName(fmt.Sprintf("b%d", i)))
	}
	if all, err := r.Agents(t.Context()); err != nil || len(all) != 500 || all[499].Agent != "b2" || all[0].Agent == "a0" {
		t.Errorf("%d %v", len(all), err)
	}
}
