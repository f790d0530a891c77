//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"time"
)

// Status is what a user is told of the pipeline.
type Status struct {
	Counts
	Lag      uint64            `json:"lag"`
	Errors   []string          `json:"errors"`
	Buffered map[string]uint64 `json:"buffered_rows"`
	Lanes    []struct {
		Stage string `json:"stage"`
		Unit  string `json:"unit"`
		Owner string `json:"owner"`
	} `json:"lanes"`
}

func readStatus(ctx context.Context, stack *Stack) (s Status, err error) {
	out, err := stack.Sluice(ctx, "", "status", pipeline, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// waiting is the number of rows that wait in a join. As long as nothing is said of them nothing is known: then it is at least one.
func (s Status) waiting(sources int) (n uint64) {
	if len(s.Buffered) < sources {
		return 1
	}
	for _, rows := range s.Buffered {
		n += rows
	}
	return n
}

// calm waits until the storm's traces are gone: lag 0 and, of a join, no row that waits. It complains when that takes too long.
func (r *Run) calm(ctx context.Context, stack *Stack) {
	began := time.Now()
	sources := 0
	if topics := len(r.Job.Topics()); topics > 1 {
		sources = topics
	}
	quiet := 0
	for {
		// First what waits: what it has become is lag then. Once is not enough: right after a fault not every lane has reported.
		s, err := readStatus(ctx, stack)
		if quiet++; err != nil || s.Lag > 0 || s.waiting(sources) > 0 {
			quiet = 0
		}
		decided := quiet > 2
		left := r.Settle - time.Since(began)
		if decided || left <= 0 {
			out, waitErr := stack.Sluice(ctx, "", "wait", pipeline, "--timeout", max(left, time.Second).String())
			if decided && waitErr == nil {
				r.say("lag 0 after %s", time.Since(began).Round(100*time.Millisecond))
				return
			}
			text, _ := stack.Sluice(ctx, "", "status", pipeline)
			r.complain("lag does not get 0, or rows wait: %v, %v, %v %s\n%s", s.Buffered, err, waitErr, out, text)
			return
		}
		if err := wait(ctx, lookEvery); err != nil {
			r.complain("not calm: %v", err)
			return
		}
	}
}

// lag is how many events are not in the table yet; false as long as nobody can say.
func (r *Run) lag(ctx context.Context, stack *Stack) (uint64, bool) {
	s, err := readStatus(ctx, stack)
	return s.Lag, err == nil && len(s.Errors) == 0
}

// letters complains about dead letters: every event is good.
func (r *Run) letters(ctx context.Context, stack *Stack) {
	out, err := stack.Sluice(ctx, "", "dlq", "ls", pipeline, "-o", "json")
	switch {
	case err != nil:
		r.complain("the dead letters cannot be listed: %v", err)
	case out != "":
		r.complain("there are dead letters: %.2000s", out)
	}
}

// status complains when the counts that users see are not exact.
func (r *Run) status(ctx context.Context, stack *Stack, want Counts) {
	s, err := readStatus(ctx, stack)
	switch {
	case err != nil:
		r.complain("no status: %v", err)
	case s.Counts != want && r.PutBackParts:
		// What one stage has counted may be gone under the next. Rows are what is promised.
		r.say("the status counts %s; there were %s", s.Counts, want)
	case s.Counts != want:
		r.complain("the status counts %s; there were %s", s.Counts, want)
	}
}

// changed complains when the lanes of before do not go, or another number of lanes stays than was asked for.
func (r *Run) changed(ctx context.Context, stack *Stack, lanes int) {
	began := time.Now()
	for {
		s, err := readStatus(ctx, stack)
		units := map[string]int{}
		for _, l := range s.Lanes {
			units[l.Stage]++
		}
		done := err == nil
		for _, stage := range r.Job.Stages()[1:] { // the ingestor's are partitions
			done = done && units[stage] == lanes
		}
		if done {
			r.say("%d lanes, and none of before, after %s", lanes, time.Since(began).Round(100*time.Millisecond))
			return
		}
		if time.Since(began) > r.Settle {
			text, _ := stack.Sluice(ctx, "", "status", pipeline)
			r.complain("%d lanes were asked for, there are %v: %v\n%s", lanes, units, err, text)
			return
		}
		if err := wait(ctx, lookEvery); err != nil {
			r.complain("the lanes: %v", err)
			return
		}
	}
}

// incomplete is the exit code of an audit that finds no difference, and could not compare everything.
const incomplete = 7

// audit complains when what the pipeline itself can tell of its rows is not that they are equal.
func (r *Run) audit(ctx context.Context, stack *Stack) {
	out, err := stack.Sluice(ctx, "", "verify", pipeline)
	var exit *exec.ExitError
	if r.PutBackParts && errors.As(err, &exit) && exit.ExitCode() == incomplete && strings.Contains(out, "has no ledger") {
		// A lane that cannot tell which rows of the table it had counted says so from then on.
		r.say("the audit can only count the rows of some lanes, and finds them all")
		return
	}
	if err != nil {
		r.complain("the audit does not find the table equal: %v\n%s", err, out)
		return
	}
	r.say("the audit finds the table equal")
}
