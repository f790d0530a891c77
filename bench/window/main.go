//go:build linux

package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

type options struct {
	keys    int
	lanes   int
	window  time.Duration
	trickle time.Duration
	rate    int
	bin     string
}

func main() {
	var o options
	flag.IntVar(&o.keys, "keys", 10_000_000, "keys that the window holds")
	flag.IntVar(&o.lanes, "lanes", 4, "lanes of the pipeline")
	flag.DurationVar(&o.window, "window", 7*24*time.Hour, "the window")
	flag.DurationVar(&o.trickle, "trickle", 30*time.Second, "how long events trickle in to see what checkpoints cost")
	flag.IntVar(&o.rate, "rate", 2000, "keys a second that trickle in")
	flag.StringVar(&o.bin, "bin", "bin", "directory of the binaries")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "window:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "sluice-window-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return err
	}
	p, err := open(ctx, o, dir)
	if err != nil {
		return err
	}
	defer p.close()

	empty, err := p.trickleIn(ctx)
	if err != nil {
		return fmt.Errorf("trickle: %w", err)
	}
	fmt.Printf("no keys, %s\n", empty)
	if err := p.fill(ctx); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	if err := p.checkpoints(ctx); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	full, err := p.trickleIn(ctx)
	if err != nil {
		return fmt.Errorf("trickle: %w", err)
	}
	fmt.Printf("all keys, %s\n", full)
	if err := p.size(ctx); err != nil {
		return err
	}
	for _, end := range []struct {
		how string
		do  func() error
	}{
		{"SIGTERM", p.dedup.stop},
		{"SIGKILL", p.dedup.kill},
		{"SIGTERM", p.dedup.stop},
	} {
		if err := p.restart(ctx, end.how, end.do); err != nil {
			return fmt.Errorf("restart after %s: %w", end.how, err)
		}
	}
	return nil
}

// used is what was used of the processors while something happened.
type used struct {
	wall        time.Duration
	dedup, nats time.Duration
	events      int
}

func (u used) String() string {
	return fmt.Sprintf("%d events in %s: CPU of dedup %s, of NATS %s", u.events, u.wall.Round(10*time.Millisecond), u.dedup, u.nats)
}

// measured runs do and says what it cost.
func (p *parts) measured(do func() (events int, err error)) (used, error) {
	began := time.Now()
	dedup, nats := p.dedup.cpu(), p.nats.cpu()
	events, err := do()
	return used{time.Since(began), p.dedup.cpu() - dedup, p.nats.cpu() - nats, events}, err
}

func (p *parts) fill(ctx context.Context) error {
	u, err := p.measured(func() (int, error) { return p.feed.fill(ctx, p.o.keys) })
	if err != nil {
		return err
	}
	perKey := func(d time.Duration) string { return fmt.Sprintf("%.2f µs", d.Seconds()*1e6/float64(u.events)) }
	fmt.Printf("filled: %s; %.0f k/s, %s of dedup and %s of NATS an event; dedup holds %d MiB\n",
		u, float64(u.events)/u.wall.Seconds()/1e3, perKey(u.dedup), perKey(u.nats), p.dedup.rss()>>20)
	return nil
}

// trickleIn lets events come slowly, so that checkpoints are most of what is done.
func (p *parts) trickleIn(ctx context.Context) (used, error) {
	return p.measured(func() (int, error) { return p.feed.trickle(ctx, p.o.trickle, p.o.rate) })
}

// checkpoints asks for two checkpoints: one with what was new, one with nothing new.
func (p *parts) checkpoints(ctx context.Context) error {
	for _, what := range []string{"checkpoint on request", "another, nothing new"} {
		u, err := p.measured(func() (int, error) { return 0, p.checkpoint(ctx) })
		if err != nil {
			return err
		}
		fmt.Printf("%s: %s; CPU of dedup %s, of NATS %s\n", what, u.wall.Round(time.Millisecond), u.dedup, u.nats)
	}
	return nil
}

// size says what the state takes in NATS.
func (p *parts) size(ctx context.Context) error {
	keys, err := p.keys(ctx)
	if err != nil {
		return err
	}
	status, err := p.state.Status(ctx)
	if err != nil {
		return fmt.Errorf("size of the state: %w", err)
	}
	manifest, err := p.state.Get(ctx, "dedup.0.manifest")
	if err != nil {
		return fmt.Errorf("size of a manifest: %w", err)
	}
	fmt.Printf("state: %d keys, %d bytes in NATS in %d values, %.1f B a key; a manifest has %d bytes\n",
		keys, status.Bytes(), status.Values(), float64(status.Bytes())/float64(keys), len(manifest.Value()))
	return nil
}

// restart ends the process, starts it, and waits for the answers to events that had come meanwhile.
func (p *parts) restart(ctx context.Context, how string, end func() error) error {
	if err := end(); err != nil {
		return err
	}
	probes, err := p.feed.probe(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := p.dedup.start(); err != nil {
		return err
	}
	var lanes []string
	for lane, probe := range probes {
		if err := probe.answer(ctx); err != nil {
			return fmt.Errorf("lane %d: %w", lane, err)
		}
		lanes = append(lanes, time.Since(began).Round(10*time.Millisecond).String())
	}
	fmt.Printf("restart after %s: answers of lanes after %s; CPU of dedup %s, it holds %d MiB\n",
		how, strings.Join(lanes, ", "), p.dedup.cpu(), p.dedup.rss()>>20)
	return nil
}
