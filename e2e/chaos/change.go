//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Settings are what is changed of the pipeline while it runs.
type Settings struct {
	Lanes  int
	Window time.Duration // of dedup
}

// startSettings are those of the beginning.
var startSettings = Settings{Lanes: 4, Window: windows[0]}

const (
	// attempt bounds one call of the command line: control may be stopped.
	attempt = 10 * time.Second
	// changeWait is how long a change may be impossible: longer than anything that it needs is away, whatever else happens.
	changeWait = 5 * time.Minute
	// unfinished is what a change of lanes is refused with as long as the one before is under way.
	unfinished = "is not finished"
)

// changePipeline makes a change, also while other things go wrong. That it is refused because the lanes of before have not come to their end is as it
// should be; that it is impossible for long, or refused for anything else, is not.
func (s *Storm) changePipeline(ctx context.Context, f Fault) error {
	if f.Action == Pause {
		return between(ctx, f.For, func() error { return s.ask(ctx, "", "pause", pipeline) },
			func() error { return s.ask(context.WithoutCancel(ctx), "", "resume", pipeline) })
	}
	next := s.Settings()
	if f.Action == ChangeLanes && !s.parts { // a state of before a change, alone, is not healed
		next.Lanes = f.Pick
	} else {
		next.Window = windows[f.Pick%len(windows)]
	}
	err := s.ask(ctx, s.spec(next), "apply", "-f", "-")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.settings = next
	case strings.Contains(err.Error(), unfinished):
		s.skipped++
		err = nil
	}
	return err
}

// ask gives the command line a task until it is answered.
func (s *Storm) ask(ctx context.Context, stdin string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, changeWait)
	defer cancel()
	var last error
	for {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, attempt)
			defer cancel()
			_, err := s.stack.Sluice(ctx, stdin, args...)
			return err
		}()
		if err == nil || strings.Contains(err.Error(), unfinished) {
			return err
		}
		if ctx.Err() == nil {
			last = err
		}
		if wait(ctx, lookEvery) != nil {
			return fmt.Errorf("the pipeline cannot be changed: %w", errors.Join(last, context.Cause(ctx)))
		}
	}
}

// Settings are those that the pipeline has now.
func (s *Storm) Settings() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// Skipped is how many changes of lanes were refused since another was under way.
func (s *Storm) Skipped() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipped
}
