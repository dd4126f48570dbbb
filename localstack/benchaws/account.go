package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sallyport/sallyport/internal/access"
	"github.com/sallyport/sallyport/internal/stack"
	"github.com/sallyport/sallyport/localstack/measure"
)

// removeLimit is for everything to be gone, also when the run was interrupted.
const removeLimit = 3 * time.Minute

// account measures decide as a function of an AWS account, on tables, a bucket and keys that are made for it and removed again.
func (b *bench) account(ctx context.Context, getenv func(string) string, arch string) (err error) {
	if _, err := stack.Config(getenv, "DYNAMODB"); err != nil { // before anything takes time
		return err
	}
	binary, err := b.build(ctx, "decide", map[string]string{"arm64": "arm64", "x86_64": "amd64"}[arch])
	if err != nil {
		return err
	}
	packed, err := zipped(binary)
	if err != nil {
		return err
	}
	p, err := measure.Make(ctx, getenv)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
		defer cancel()
		gone := p.Remove(ctx)
		if gone == nil {
			b.say("Removed: everything named %s*; its four keys are deleted in seven days.", p.Name)
		}
		err = errors.Join(err, gone)
	}()
	w, err := measure.NewWorld(ctx, p, getenv)
	if err != nil {
		return err
	}
	f, err := measure.NewFunction(ctx, w, packed, arch, b.memory)
	if err != nil {
		return err
	}
	b.say("| decide in an account: %s, %d MB, region %s, by Invoke | |\n|---|---|", arch, b.memory, p.Vars["AWS_REGION"])
	if err := b.cold(ctx, w, f); err != nil {
		return err
	}
	for _, n := range []int{1, 64} {
		if err := b.warmCalls(ctx, w, f, n); err != nil {
			return err
		}
	}
	if err := b.atOnce(ctx, w, f); err != nil {
		return err
	}
	b.say("")
	return nil
}

// figures prints what Lambda said, where it said it.
func (b *bench) figures(what string, all []time.Duration) {
	all = slices.DeleteFunc(all, func(d time.Duration) bool { return d == 0 })
	if len(all) > 0 {
		b.row(what+", p50 / p99, ms", "%s / %s (of %d)", ms(measure.Percentile(all, 50)), ms(measure.Percentile(all, 99)), len(all))
	}
}

func (b *bench) cold(ctx context.Context, w *measure.World, f *measure.Function) error {
	a, err := newAsker(ctx, w, "cold")
	if err != nil {
		return err
	}
	var took, inits, durations []time.Duration
	for n := range max(1, b.starts/3) {
		if err := f.Chill(ctx, n); err != nil {
			return err
		}
		r, err := invoke(ctx, a, f, 1)
		if err != nil {
			return err
		}
		took, inits, durations = append(took, r.Took), append(inits, r.Init), append(durations, r.Duration)
	}
	b.figures("the first call of a new process, from here", took)
	b.figures("its Init Duration, as Lambda reports it", inits)
	b.figures("its Duration, as Lambda reports it", durations)
	return nil
}

func invoke(ctx context.Context, a *asker, f *measure.Function, n int) (r measure.Report, err error) {
	err = a.ask(ctx, n, func(event []byte) (out []byte, err error) {
		out, r, err = f.Invoke(ctx, event)
		return out, err
	})
	return r, err
}

func (b *bench) warmCalls(ctx context.Context, w *measure.World, f *measure.Function, n int) error {
	a, err := newAsker(ctx, w, "warm")
	if err != nil {
		return err
	}
	var took, durations []time.Duration
	memory := int64(0)
	for i := range b.calls/10/n + warm {
		r, err := invoke(ctx, a, f, n)
		if err != nil {
			return err
		}
		if i >= warm/2 {
			took, durations, memory = append(took, r.Took), append(durations, r.Duration), max(memory, r.MemoryUsed)
		}
	}
	b.figures(fmt.Sprintf("a warm call of %d, from here", n), took)
	b.figures("its Duration, as Lambda reports it", durations)
	if memory > 0 {
		b.row("memory used, as Lambda reports it, MB", "%d", memory)
	}
	return nil
}

// atOnce has agents ask at once, one session each. What Lambda throttles is asked again by nobody here: it is counted.
func (b *bench) atOnce(ctx context.Context, w *measure.World, f *measure.Function) error {
	const each = 10
	agents := max(1, b.agents/5)
	askers := make([]*asker, agents)
	for i := range askers {
		var err error
		if askers[i], err = newAsker(ctx, w, access.AgentName(fmt.Sprintf("edge-%d", i))); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var took []time.Duration
	var failed error
	refused := 0
	var wg sync.WaitGroup
	begin := time.Now()
	for _, a := range askers {
		wg.Go(func() {
			for range each {
				r, err := invoke(ctx, a, f, 1)
				mu.Lock()
				if err != nil {
					refused++
					failed = err
				} else {
					took = append(took, r.Took)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(took) == 0 {
		return failed
	}
	rate := float64(len(took)) / time.Since(begin).Seconds()
	b.figures(fmt.Sprintf("%d agents at once, a call of 1, from here", agents), took)
	b.row("the same: decisions / calls without an answer", "%d (%.0f/s) / %d", len(took), rate, refused)
	if failed != nil {
		b.row("the last of these", "%v", failed)
	}
	return nil
}
