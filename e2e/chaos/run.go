//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// pipeline is the id of the pipeline under test.
const pipeline = "events"

// Run is one run from start to verdict.
type Run struct {
	Config
	began time.Time

	mu         sync.Mutex
	complaints []string // guarded by mu: what must not have happened
}

func newRun(c Config) *Run { return &Run{Config: c, began: time.Now()} }

func (r *Run) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	fmt.Printf("%s %4ds  %s\n", now.Format(clock), int(now.Sub(r.began).Seconds()), fmt.Sprintf(format, args...))
}

// complain notes what must not happen: the run goes on, and fails.
func (r *Run) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.say("WRONG: %s", text)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.complaints = append(r.complaints, text)
}

// do runs everything and tells whether the promise held. An error is the harness's own.
func (r *Run) do(ctx context.Context) (ok bool, err error) {
	plan := r.plan()
	r.say("seed %d, %d steps, %d events/s", r.Seed, len(plan), r.Rate)
	stack, err := newStack(ctx, r.Bin, r.Dir, r.Job.Stages(), r.complain)
	if err != nil {
		return false, err
	}
	defer stack.Close()
	table, err := openTable(stack.clickhouseAddr)
	if err != nil {
		return false, err
	}
	defer table.conn.Close()
	if err := table.Make(ctx, r.Job.Columns(), r.Window); err != nil {
		return false, err
	}
	producer, err := newProducer(ctx, stack.kafkaLink.Addr(), r.Job, r.Rate)
	if err != nil {
		return false, err
	}
	defer producer.client.Close()
	spec := func(with Settings) string {
		return r.Job.Spec(stack.kafkaLink.Addr(), stack.clickhouse.Link.Addr(), with)
	}
	if _, err := stack.Sluice(ctx, spec(startSettings), "apply", "-f", "-"); err != nil {
		return false, err
	}
	tap, err := newTap(stack.natsAddr, r.Job.Stages())
	if err != nil {
		return false, err
	}
	storm := &Storm{stack: stack, say: r.say, spec: spec, kinds: map[string]int{}, settings: startSettings, parts: r.PutBackParts, seed: r.Seed}
	watch := &Watch{table: table, acked: producer.acked.Load, doing: storm.Now}

	listening, deaf := context.WithCancel(ctx)
	var listeners sync.WaitGroup
	defer listeners.Wait()
	defer deaf()
	listeners.Go(func() { tap.Run(listening, pipeline) })
	watching, blind := context.WithCancel(ctx)
	defer blind()
	listeners.Go(func() {
		watch.Run(watching, func() {
			_, n := storm.Kinds()
			r.say("%d faults, %d events, %d rows", n, producer.acked.Load(), watch.Rows())
		})
	})
	stop := make(chan struct{})
	produced := make(chan error, 1)
	listeners.Go(func() { produced <- producer.Run(ctx, stop) })

	memory := newMemory(stack, r.Memory<<20, r.complain)
	listeners.Go(func() { memory.Run(watching) })
	var stormErr error
	if len(r.Outages) > 0 {
		stormErr = r.sufferOutages(ctx, storm, memory, r.Outages)
	} else {
		memory.Phase("all the time")
		stormErr = storm.Run(ctx, plan)
	}
	close(stop)
	if err := errors.Join(stormErr, <-produced); err != nil {
		return false, r.failed(plan, stack, err)
	}
	r.say("the storm is over after %d events: waiting for lag 0", producer.acked.Load())
	r.calm(ctx, stack)
	blind()
	for _, line := range memory.Lines() {
		fmt.Println(line)
	}
	return r.judge(ctx, plan, stack, producer, table, tap, storm, watch)
}

// judge compares, and prints what there is to say.
func (r *Run) judge(ctx context.Context, plan []Step, stack *Stack, producer *Producer, table *Table, tap *Tap,
	storm *Storm, watch *Watch,
) (bool, error) {
	truth, err := r.Job.Truth(ctx, stack.kafka.Addr(), producer.sent.Load())
	if err != nil {
		return false, r.failed(plan, stack, err)
	}
	r.letters(ctx, stack)
	r.status(ctx, stack, truth.Counts())
	r.changed(ctx, stack, storm.Settings().Lanes)
	r.audit(ctx, stack)
	// After this nobody is left who could still insert.
	if err := stack.StopServices(); err != nil {
		r.complain("the services do not stop in good order: %v", err)
	}
	verdict, err := truth.Compare(ctx, table)
	if err != nil {
		return false, r.failed(plan, stack, err)
	}
	ok := verdict.Exact() && len(r.complaints) == 0
	if !verdict.Exact() {
		if err := verdict.Explain(ctx, tap, r.say); err != nil {
			r.say("cannot explain: %v", err)
		}
	}
	if !ok {
		_ = r.failed(plan, stack, nil)
	}
	kinds, total := storm.Kinds()
	stall, when := watch.Longest()
	fmt.Println("faults by kind:")
	for _, line := range kinds {
		fmt.Println(line)
	}
	fmt.Printf("changes of lanes refused since another was under way: %d\n", storm.Skipped())
	fmt.Printf("%s, rows %d, wrong rows %d\n", truth.Records(), verdict.Rows, verdict.Wrong)
	fmt.Printf("longest stall %s, begun at %s\n", stall.Round(100*time.Millisecond), when)
	fmt.Printf("seed %d, %s\n", r.Seed, time.Since(r.began).Round(time.Second))
	fmt.Printf("faults %d, events %d, lost %d, repeated %d\n", total, truth.Counts().RecordsIn, verdict.Lost, verdict.Repeated)
	return ok, nil
}

// failed prints what a failure is to be looked into with.
func (r *Run) failed(plan []Step, stack *Stack, err error) error {
	fmt.Printf("seed %d; the schedule:\n", r.Seed)
	printPlan(plan)
	stack.mu.Lock()
	all := stack.all
	stack.mu.Unlock()
	for _, p := range all {
		fmt.Printf("log of %s ends with\n%s\n", p.Name, p.Tail(15))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.complaints {
		fmt.Println("WRONG:", c)
	}
	return err
}
