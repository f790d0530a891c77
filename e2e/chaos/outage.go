//go:build unix

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Outage is a part that is gone for long.
type Outage struct {
	Target string
	For    time.Duration
}

// outages of the long form: ClickHouse away for longer than every timeout and back-off there is, the others for long enough
// that all of theirs have run out, too.
const outages = ClickHouse + "=10m," + NATS + "=2m," + Kafka + "=2m"

// ParseOutages reads "clickhouse=10m,nats=2m", of a pipeline with these stages.
func ParseOutages(text string, stages []string) (out []Outage, err error) {
	parts := partsOf(stages)
	for item := range strings.SplitSeq(text, ",") {
		target, duration, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok || !slices.Contains(parts, target) {
			return nil, fmt.Errorf("outage %q: want PART=DURATION, PART one of %s", item, strings.Join(parts, ", "))
		}
		d, err := time.ParseDuration(duration)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("outage %q: %q is no duration", item, duration)
		}
		if longest := joinGrace - startWait; target == Kafka && d > longest && slices.Contains(stages, Join) {
			return nil, fmt.Errorf("outage %q: after more than %s without Kafka events are late for the join, by its rules", item, longest)
		}
		out = append(out, Outage{target, d})
	}
	return out, nil
}

// outagePlan is the outages as a schedule, which is what is printed and counted.
func outagePlan(all []Outage) (plan []Step) {
	for _, o := range all {
		f := Fault{Action: Kill, Target: o.Target, For: o.For}
		if !slices.Contains(single, o.Target) {
			f.Action = KillAll
		}
		plan = append(plan, Step{After: calmBefore, Faults: []Fault{f}})
	}
	return plan
}

const (
	// calmBefore each outage, so that there is something to compare with.
	calmBefore = 30 * time.Second
	// caughtUp is the lag, in seconds of the producer's rate, that is no more than what is on its way.
	caughtUp  = 2
	lookEvery = time.Second
)

// sufferOutages carries the outages out one after the other and waits after each until all is caught up. What every process
// holds of memory is kept by phase.
func (r *Run) sufferOutages(ctx context.Context, storm *Storm, memory *Memory, all []Outage) error {
	for _, o := range all {
		memory.Phase("before " + o.Target)
		if err := wait(ctx, calmBefore); err != nil {
			return err
		}
		memory.Phase(o.Target + " down")
		step := outagePlan([]Outage{o})
		step[0].After = 0
		if err := storm.Run(ctx, step); err != nil {
			return err
		}
		memory.Phase("after " + o.Target)
		back := time.Now()
		behind, known := uint64(0), false
		for {
			lag, ok := r.lag(ctx, storm.stack)
			if ok {
				behind, known = max(behind, lag), true
			}
			if known && ok && lag <= uint64(caughtUp*r.Rate) {
				break
			}
			if time.Since(back) > r.Settle {
				return fmt.Errorf("%s after %s is back the lag is still %d", r.Settle, o.Target, lag)
			}
			if err := wait(ctx, lookEvery); err != nil {
				return err
			}
		}
		r.say("%s was down for %s: %d events behind, caught up %s after it was back", o.Target, o.For, behind, time.Since(back).Round(time.Second))
	}
	return nil
}
