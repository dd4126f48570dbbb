package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/api"
	"github.com/sallyport/sallyport/localstack/localaws"
	"github.com/sallyport/sallyport/localstack/measure"
)

// here measures on this machine: on the embedded twins behind the SDK, and on DynamoDB Local where that is prepared.
func (b *bench) here(ctx context.Context) error {
	if err := b.sizes(ctx); err != nil {
		return err
	}
	binary := filepath.Join(b.dir, runtime.GOARCH, "decide", "bootstrap")
	on, err := b.open("", nil)
	if err != nil {
		return err
	}
	err = errors.Join(b.underHost(ctx, on, binary, "SQLite twin"), b.crowds(ctx, on, "SQLite twin behind the SDK"), on.close())
	if err != nil {
		return err
	}
	db, err := localaws.DynamoDB(ctx)
	if err != nil {
		b.say("Not measured on DynamoDB Local: %v\n", err)
		return nil
	}
	defer db.Close()
	proxy, err := measure.Proxy(db.URL)
	if err != nil {
		return err
	}
	if on, err = b.open("dynamodb", proxy); err != nil {
		return err
	}
	return errors.Join(b.underHost(ctx, on, binary, "DynamoDB Local"), b.crowds(ctx, on, "DynamoDB Local"), on.close())
}

// sizes prints what is uploaded. All functions are built, for both processors.
func (b *bench) sizes(ctx context.Context) error {
	at, err := root()
	if err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(at, "functions", "*", "lambda"))
	if err != nil {
		return err
	}
	b.say("| zip, MB | arm64 | amd64 |\n|---|---|---|")
	for _, f := range found {
		name := filepath.Base(filepath.Dir(f))
		var size [2]float64
		for i, arch := range []string{"arm64", "amd64"} {
			binary, err := b.build(ctx, name, arch)
			if err != nil {
				return err
			}
			packed, err := zipped(binary)
			if err != nil {
				return err
			}
			size[i] = float64(len(packed)) / 1e6
		}
		b.say("| %s | %.2f | %.2f |", name, size[0], size[1])
	}
	b.say("")
	return nil
}

func zipped(binary string) ([]byte, error) {
	f, err := os.Open(binary)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	h := &zip.FileHeader{Name: "bootstrap", Method: zip.Deflate}
	h.SetMode(0o755)
	w, err := z.CreateHeader(h)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, f); err != nil {
		return nil, err
	}
	err = z.Close() // writes the directory
	return out.Bytes(), err
}

// on is where is measured.
type on struct {
	world *measure.World
	meter *measure.Meter
	close func() error
}

// open makes a world on the twins; tables are elsewhere where dynamo is given.
func (b *bench) open(name string, dynamo http.Handler) (on, error) {
	back, err := measure.OpenTwin(filepath.Join(b.dir, "twin"+name))
	if err != nil {
		return on{}, err
	}
	meter := measure.NewMeter(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if dynamo != nil && strings.HasPrefix(r.Header.Get("X-Amz-Target"), "DynamoDB_") {
			dynamo.ServeHTTP(w, r)
			return
		}
		back.ServeHTTP(w, r)
	}))
	served, err := measure.Serve(meter)
	if err != nil {
		return on{}, errors.Join(err, back.Close())
	}
	o := on{meter: meter, close: func() error { return errors.Join(served.Close(), back.Close()) }}
	getenv, err := measure.Local(served.URL)
	if err != nil {
		return on{}, errors.Join(err, o.close())
	}
	p, err := measure.Make(context.Background(), getenv)
	if err != nil {
		return on{}, errors.Join(err, o.close())
	}
	if o.world, err = measure.NewWorld(context.Background(), p, getenv); err != nil {
		return on{}, errors.Join(err, o.close())
	}
	return o, nil
}

// asker is one session, for calls one after the other.
type asker struct {
	agent   *measure.Agent
	session *measure.Session
}

func newAsker(ctx context.Context, w *measure.World, agent access.AgentName) (*asker, error) {
	a, err := w.Agent(ctx, agent)
	if err != nil {
		return nil, err
	}
	l, err := w.Login(ctx, "maria@example.com")
	if err != nil {
		return nil, err
	}
	s, err := w.Session(ctx, a, l)
	return &asker{a, s}, err
}

// ask has n commands decided by a function that invoke calls with an event.
func (a *asker) ask(ctx context.Context, n int, invoke func(event []byte) ([]byte, error)) error {
	q, err := a.session.Ask(n, false)
	if err != nil {
		return err
	}
	r, body, err := a.agent.Request(ctx, api.PathCheck, api.CheckRequest{Agent: a.agent.Name, Asks: []api.Ask{q}})
	if err != nil {
		return err
	}
	event, err := measure.Event(r, body)
	if err != nil {
		return err
	}
	raw, err := invoke(event)
	if err != nil {
		return err
	}
	status, body, err := measure.Response(raw)
	if err != nil {
		return err
	}
	resp, err := measure.ReadAnswer(status, body)
	if err != nil {
		return err
	}
	if len(resp.Answers) != 1 {
		return fmt.Errorf("%d answers", len(resp.Answers))
	}
	return a.session.Answered(q, resp.Answers[0], access.Allow)
}

// underHost measures the deployed binary: its start, and decisions one after the other.
func (b *bench) underHost(ctx context.Context, o on, binary, where string) error {
	vars := o.world.Vars()
	var inits, own []time.Duration
	for range b.starts {
		if _, err := o.meter.Take(); err != nil {
			return err
		}
		h, err := measure.StartHost(binary, vars)
		if err != nil {
			return err
		}
		u, err := o.meter.Take()
		if err := errors.Join(err, h.Close()); err != nil {
			return err
		}
		inits, own = append(inits, h.Init), append(own, h.Init-u.Busy)
	}
	h, err := measure.StartHost(binary, vars)
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }() // it holds nothing
	a, err := newAsker(ctx, o.world, "edge")
	if err != nil {
		return err
	}
	b.say("| decide under a runtime host, %s | |\n|---|---|", where)
	b.row("from the start of the process to its first question, p50 / p99, ms", "%s / %s", ms(measure.Percentile(inits, 50)), ms(measure.Percentile(inits, 99)))
	b.row("the same without what the stores took", "%s / %s", ms(measure.Percentile(own, 50)), ms(measure.Percentile(own, 99)))
	for _, n := range []int{1, 64} {
		whole, mine, err := b.series(ctx, o, h, a, n, b.calls/n+b.calls/20)
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("a call of %d, p50 / p99, ms", n), "%s / %s", ms(measure.Percentile(whole, 50)), ms(measure.Percentile(whole, 99)))
		b.row("the same without what the stores took", "%s / %s", ms(measure.Percentile(mine, 50)), ms(measure.Percentile(mine, 99)))
	}
	now, most, err := h.Memory()
	if err != nil {
		return err
	}
	b.row("resident, now / at most, MB", "%.0f / %.0f", float64(now)/1e6, float64(most)/1e6)
	b.say("")
	return nil
}

// warm is how many calls are not counted.
const warm = 20

func (b *bench) series(ctx context.Context, o on, h *measure.Host, a *asker, n, calls int) (whole, mine []time.Duration, err error) {
	for i := range calls + warm {
		if _, err := o.meter.Take(); err != nil {
			return nil, nil, err
		}
		var took time.Duration
		err := a.ask(ctx, n, func(event []byte) (out []byte, err error) {
			out, took, err = h.Invoke(ctx, event)
			return out, err
		})
		u, bad := o.meter.Take()
		if err := errors.Join(err, bad); err != nil {
			return nil, nil, err
		}
		if i >= warm {
			whole, mine = append(whole, took), append(mine, took-u.Busy)
		}
	}
	return whole, mine, nil
}

// crowds has many agents ask at once.
func (b *bench) crowds(ctx context.Context, o on, where string) error {
	crowd := measure.Crowd{Agents: b.agents, Sessions: 3, Commands: 10, Logins: max(1, b.agents/4), Processes: 8, OneAtATime: true}
	b.say("| %d agents at once, %d sessions each, %d processes, %s | |\n|---|---|", crowd.Agents, crowd.Sessions, crowd.Processes, where)
	if _, err := o.meter.Take(); err != nil {
		return err
	}
	got, err := crowd.OnAWS(ctx, o.world)
	if err != nil {
		return err
	}
	u, err := o.meter.Take()
	if err != nil {
		return err
	}
	b.crowd(got)
	made := crowd.Logins + crowd.Agents*crowd.Sessions
	b.row("requests that write, for each decision (entries and the feed's index)", "%.3f", float64(u.DynamoDB("PutItem")+u.DynamoDB("TransactWriteItems")-made)/float64(got.Decisions))
	held := measure.Crowd{Agents: b.agents, Sessions: 1, Commands: 1, Logins: 1, Processes: 8, OneAtATime: true, Held: true}
	if got, err = held.OnAWS(ctx, o.world); err != nil {
		return err
	}
	b.row(fmt.Sprintf("%d held commands of one login at once: held / refused for want of a place / conditional writes that lost", held.Agents), "%d / %d / %d", got.Held, got.Decisions-got.Held, got.Refused)
	b.say("")
	if where == "DynamoDB Local" {
		return nil
	}
	b.say("| %d agents at once, %d sessions each, one process, SQLite without the SDK | |\n|---|---|", crowd.Agents, crowd.Sessions)
	crowd.Processes, crowd.OneAtATime = 1, false
	if got, err = crowd.OnTwin(ctx, o.world, b.dir); err != nil {
		return err
	}
	b.crowd(got)
	b.say("")
	return nil
}

func (b *bench) crowd(got measure.Crowded) {
	b.row("decisions", "%d in %.1f s: %.0f/s", got.Decisions, got.Took.Seconds(), float64(got.Decisions)/got.Took.Seconds())
	b.row("a decision, waiting included, p50 / p99, ms", "%s / %s", ms(got.P50), ms(got.P99))
	b.row("conditional writes for each decision / refused / asked again / lost", "%.3f / %d / %d / %d", float64(got.Writes)/float64(got.Decisions), got.Refused, got.Again, got.Lost)
	b.row("mean of the fastest and of the slowest agent, ms; Jain's index", "%s, %s; %.3f", ms(got.FastestMean), ms(got.SlowestMean), got.Fairness)
}
