//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// blockSize is what a client sends at once when a block is on its way; queries are smaller.
	blockSize = 2 << 10
	// blockWait is how long a fault that wants an insert waits for one; then it happens without.
	blockWait = 8 * time.Second
	// startWait bounds a restart of Kafka.
	startWait = 2 * time.Minute
)

// Storm carries a plan out.
type Storm struct {
	stack *Stack
	say   func(format string, args ...any)
	spec  func(Settings) string

	mu    sync.Mutex
	now   string         // guarded by mu: the step that is going on
	kinds map[string]int // guarded by mu: faults by kind
	// Guarded by mu: what the pipeline has now, and how many changes of it were refused.
	settings Settings
	skipped  int
	// Owned by Run: the number of the step, and the copy of NATS' store that there is.
	step    int
	earlier *earlier
	// parts: not all of the store is put back, but some of its streams, chosen by the seed.
	parts bool
	seed  uint64
}

// Now tells what is being done.
func (s *Storm) Now() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Kinds returns how many faults there were of each kind, and of all kinds together.
func (s *Storm) Kinds() (lines []string, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kind, n := range s.kinds {
		lines = append(lines, fmt.Sprintf("%4d  %s", n, kind))
		total += n
	}
	slices.Sort(lines)
	slices.Reverse(lines)
	return lines, total
}

// Run carries the plan out, step by step. An error is the harness's own: a process that cannot be started again.
func (s *Storm) Run(ctx context.Context, plan []Step) error {
	for i, step := range plan {
		if err := wait(ctx, step.After); err != nil {
			return err
		}
		names := make([]string, len(step.Faults))
		for j, f := range step.Faults {
			names[j] = f.String()
		}
		text := fmt.Sprintf("step %d: %s", i+1, strings.Join(names, ", "))
		s.set(text)
		s.step = i + 1
		s.say("%s", text)
		errs := make([]error, len(step.Faults))
		var all sync.WaitGroup
		for j, f := range step.Faults {
			all.Go(func() { errs[j] = s.inflict(ctx, f, len(step.Faults) == 1) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		s.set("after " + text)
	}
	return nil
}

func (s *Storm) set(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = text
}

// inflict carries one fault out and mends it. alone: nothing else is wrong meanwhile.
func (s *Storm) inflict(ctx context.Context, f Fault, alone bool) error {
	s.mu.Lock()
	s.kinds[f.Kind()]++
	s.mu.Unlock()
	if f.Target == Pipeline {
		return s.changePipeline(ctx, f)
	}
	switch f.Action {
	case PutBack:
		return s.putBack(f)
	case Add:
		return s.stack.Add(f.Target)
	case Remove:
		name, err := s.stack.Remove(f.Target, f.Pick)
		if err != nil {
			if alone {
				s.stack.complain("%s does not stop in good order: %v", name, err)
			} else {
				s.say("%s did not stop in good order while other things were wrong: %v", name, err)
			}
		}
		return nil
	case KillInsert, PauseInsert, MuteInsert:
		select {
		case <-s.stack.clickhouse.Link.Request(blockSize):
		case <-time.After(blockWait):
			s.say("no insert came within %s for: %s", blockWait, f)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.Target == Kafka {
		return s.inflictKafka(ctx, f)
	}
	pick := f.Pick
	if f.Action == KillAll {
		pick = -1
	}
	parts := s.stack.Pick(f.Target, pick)
	switch f.Action {
	case Kill, KillAll, KillInsert:
		return s.kill(ctx, parts, f.For)
	case Pause, PauseInsert:
		return between(ctx, f.For, parts[0].Pause, parts[0].Resume)
	}
	return s.inflictLink(ctx, parts[0].Link, f)
}

func (s *Storm) kill(ctx context.Context, parts []*Part, d time.Duration) error {
	var errs []error
	for _, p := range parts {
		errs = append(errs, p.Kill())
	}
	errs = append(errs, wait(ctx, d))
	for _, p := range parts {
		errs = append(errs, p.Start())
	}
	return errors.Join(errs...)
}

func (s *Storm) inflictKafka(ctx context.Context, f Fault) error {
	switch f.Action {
	case Kill:
		return between(ctx, f.For, s.stack.kafka.Kill, func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startWait)
			defer cancel()
			return s.stack.kafka.Start(ctx)
		})
	case Pause:
		return between(ctx, f.For, s.stack.kafka.Pause, s.stack.kafka.Resume)
	}
	return s.inflictLink(ctx, s.stack.kafkaLink, f)
}

func (s *Storm) inflictLink(ctx context.Context, link *Proxy, f Fault) error {
	begin := link.Cut
	switch f.Action {
	case Mute, MuteInsert:
		begin = link.Mute
	case Freeze:
		begin = link.Freeze
	}
	return between(ctx, f.For, func() error { begin(); return nil }, func() error { link.Heal(); return nil })
}

// between does begin, waits, and does end, also when ctx has ended.
func between(ctx context.Context, d time.Duration, begin, end func() error) error {
	if err := begin(); err != nil {
		return err
	}
	return errors.Join(wait(ctx, d), end())
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
