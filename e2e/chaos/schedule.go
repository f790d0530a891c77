package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Action is what is done to a target.
type Action string

// The actions. Those "in an insert" wait until a block is on its way to ClickHouse.
const (
	Kill        Action = "kill"            // SIGKILL, and started again after a while
	KillAll     Action = "kill all"        // every instance of a stage
	KillInsert  Action = "kill in insert"  // while a block is on its way to ClickHouse
	Pause       Action = "pause"           // SIGSTOP, SIGCONT after a while: what wakes up is a zombie
	PauseInsert Action = "pause in insert" // a sink, or ClickHouse, that stops in the middle of a block
	Add         Action = "add"             // one more instance
	Remove      Action = "remove"          // one instance less, by SIGTERM
	Cut         Action = "cut"             // connections break and are refused for a while
	Mute        Action = "drop answers"    // the server gets every request, nobody hears its answers; then a cut
	MuteInsert  Action = "drop insert's"   // the same, from a moment on when a block is on its way
	Freeze      Action = "freeze"          // connections stay, nothing moves; then everything arrives late
	// Changes of the pipeline while it runs, by its API. It is paused by Pause.
	ChangeLanes  Action = "change lanes"
	ChangeWindow Action = "change window" // of dedup
	// PutBack puts all that NATS has stored back to what it was at one of these before, while nobody runs. It happens alone.
	PutBack Action = "put back"
)

// putBacks are dealt with the others if they are asked for.
var putBacks = slices.Repeat([]Fault{{Action: PutBack, Target: NATS}}, 12)

// Targets: the stages, of which there are several instances, and the parts that are there once.
const (
	Ingestor   = "ingestor"
	Dedup      = "dedup"
	Join       = "join"
	Sink       = "sink"
	Control    = "control"
	NATS       = "nats"
	ClickHouse = "clickhouse"
	Kafka      = "kafka"
	// Pipeline is no part, but what is changed.
	Pipeline = "pipeline"
)

// single are the parts that are there once.
var single = []string{Control, NATS, ClickHouse, Kafka}

// partsOf are all targets of a pipeline with these stages.
func partsOf(stages []string) []string { return slices.Concat(stages, single) }

// maxLanes is the largest number of lanes that the pipeline is changed to.
const maxLanes = 9

// windows are what the window of dedup is changed to: all are longer than a run, so that none changes what is a duplicate.
var windows = []time.Duration{24 * time.Hour, 36 * time.Hour, 7 * 24 * time.Hour}

// Instances of a stage at the start, and their bounds.
const (
	startInstances = 2
	minInstances   = 1
	maxInstances   = 3
)

// Fault is one injury.
type Fault struct {
	Action Action
	Target string
	// Pick chooses the instance of a stage, modulo those that there are; or it is the number of lanes, or chooses the window.
	Pick int
	// For is how long it lasts.
	For time.Duration
}

// Kind is what faults are counted by.
func (f Fault) Kind() string { return string(f.Action) + " " + f.Target }

func (f Fault) String() string {
	s := f.Kind()
	switch {
	case f.Action == ChangeLanes:
		s += fmt.Sprintf(" to %d", f.Pick)
	case f.Action == ChangeWindow:
		s += " to " + windows[f.Pick%len(windows)].String()
	case f.Target == Pipeline:
	case !slices.Contains(single, f.Target) && f.Action != Add && f.Action != KillAll:
		s += fmt.Sprintf("#%d", f.Pick)
	}
	if f.For > 0 {
		s += " " + f.For.String()
	}
	return s
}

// Step is what happens at once. The next one begins when all of it is over.
type Step struct {
	After  time.Duration // since the step before
	Faults []Fault
}

// deck holds every kind of fault that these stages can suffer, the more telling ones more often.
func deck(stages []string) []Fault {
	and := func(more ...string) []string { return slices.Concat(stages, more) }
	var d []Fault
	add := func(times int, action Action, targets ...string) {
		for range times {
			for _, t := range targets {
				d = append(d, Fault{Action: action, Target: t})
			}
		}
	}
	add(1, Kill, partsOf(stages)...)
	add(1, Kill, and(NATS)...)
	add(1, KillAll, stages...)
	add(2, KillInsert, ClickHouse, Sink)
	add(1, Pause, partsOf(stages)...)
	add(1, PauseInsert, Sink, ClickHouse)
	add(1, Add, stages...)
	add(1, Remove, stages...)
	add(1, Cut, and(Control, Kafka, ClickHouse)...)
	add(1, Mute, and(Control, Kafka, ClickHouse)...)
	add(1, MuteInsert, ClickHouse)
	add(1, Freeze, and(ClickHouse)...)
	add(6, ChangeLanes, Pipeline)
	add(2, ChangeWindow, Pipeline)
	add(2, Pause, Pipeline)
	return d
}

// Plan returns the schedule of a seed for a pipeline with these stages: n faults in steps of one or several. The deck is dealt to its end before it
// is shuffled anew, so that a plan of some length holds every kind. more are in the deck, too.
func Plan(seed uint64, n int, stages []string, more ...Fault) []Step {
	r := rand.New(rand.NewPCG(seed, 0x51c1))
	var rest []Fault
	instances := map[string]int{}
	for _, stage := range stages {
		instances[stage] = startInstances
	}
	var plan []Step
	for n > 0 {
		step := Step{After: time.Duration(r.IntN(2500)) * time.Millisecond}
		size := min(n, sizeOf(r, len(stages)+len(single)+1))
		extra := 0
		for i := 0; i < size+extra; i++ {
			if len(rest) == 0 {
				rest = append(deck(stages), more...)
				r.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
			}
			at := slices.IndexFunc(rest, func(f Fault) bool { return step.fits(f) })
			if at < 0 {
				break
			}
			f := rest[at]
			rest = slices.Delete(rest, at, at+1)
			step.Faults = append(step.Faults, f.dealt(r, instances))
			n--
			if f.Target == Pipeline && size == 1 && n > 0 {
				extra = 1 // what goes wrong while it is changed is the point
			}
		}
		plan = append(plan, step)
	}
	return plan
}

// sizeOf is the number of faults in a step, of parts that there are.
func sizeOf(r *rand.Rand, parts int) int {
	switch x := r.IntN(100); {
	case x < 60:
		return 1
	case x < 85:
		return 2
	case x < 96:
		return 3
	default:
		return parts // everything at once
	}
}

// fits: one fault a target in a step.
func (s Step) fits(f Fault) bool {
	if len(s.Faults) > 0 && (f.Action == PutBack || s.Faults[0].Action == PutBack) {
		return false
	}
	return !slices.ContainsFunc(s.Faults, func(g Fault) bool { return g.Target == f.Target })
}

// dealt gives the fault its particulars. Adding beyond the bounds turns into removing, and the reverse.
func (f Fault) dealt(r *rand.Rand, instances map[string]int) Fault {
	f.Pick = r.IntN(6) // divides by every number of instances
	switch {
	case f.Action == Add && instances[f.Target] == maxInstances:
		f.Action = Remove
	case f.Action == Remove && instances[f.Target] == minInstances:
		f.Action = Add
	}
	ms := func(low, high int) time.Duration {
		return time.Duration(low+r.IntN(high-low)) * time.Millisecond
	}
	switch f.Action {
	case ChangeLanes:
		f.Pick = 1 + r.IntN(maxLanes)
	case Add:
		instances[f.Target]++
	case Remove:
		instances[f.Target]--
	case Kill, KillAll, KillInsert:
		f.For = ms(0, 1500)
		if r.IntN(4) == 0 {
			f.For = ms(3500, 6000) // others take over
		}
	case Pause, PauseInsert:
		f.For = ms(500, 2500)
		if r.IntN(2) == 0 {
			f.For = ms(4500, 9000) // longer than the lease
		}
	case Cut, Mute, MuteInsert:
		f.For = ms(50, 2500)
		if r.IntN(5) == 0 {
			f.For = ms(4000, 7000)
		}
	case Freeze:
		f.For = ms(1000, 7000)
	}
	return f
}
