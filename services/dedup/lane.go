package dedup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/services/dedup/internal/window"
)

const (
	// A checkpoint is made after so much time or input, whichever comes first: it bounds what a
	// restart has to replay, and how much of the ingest log cannot be purged.
	checkpointInterval = 5 * time.Second
	checkpointBytes    = 64 << 20
	// grace is how long outputs and the last checkpoint may take once the lane is to stop.
	grace = 10 * time.Second
	// idleGap is how far the log must have run ahead of an idle lane before that moves on without
	// messages of its own.
	idleGap = 64
)

// unit is what a lane needs of its owner: see lanes.Lane.
type unit interface {
	Report(func(*stagev1.UnitStatus))
	Running()
	Checkpoints() <-chan chan<- error
}

// lane is one lane of one pipeline, from the time that it is taken until it is given up.
type lane struct {
	unit          unit
	js            jetstream.JetStream
	log           *slog.Logger
	metrics       *metrics
	pipeline      string
	lanes, index  int
	input, output fencedlog.Log
	config        window.Config
	interval      time.Duration // between checkpoints
	bytes         int           // of input between checkpoints

	// Set by take; each is then owned by the goroutine named.
	state  *checkpoint.Lane  // keep
	writer *fencedlog.Writer // publish
	fold   *fold             // run
}

// run works until ctx ends, or until something fails that only a new start can mend. Four goroutines
// hand the work on: read → fold → publish → keep. Only the fold decides anything.
//
// Asked to stop, the fold makes a last checkpoint and ends the queue behind it, and each goroutine
// ends with its queue. A lane that is lost ends at once, and so does one that fails.
func (l *lane) run(ctx context.Context) error {
	if err := l.take(ctx); err != nil {
		return unlessAsked(ctx, err)
	}
	l.unit.Running()
	l.fold.report(l.unit, 0)

	g, work := errgroup.WithContext(context.WithoutCancel(ctx))
	var (
		stopReading, stop = context.WithCancel(work)
		messages          = make(chan fencedlog.Message)
		outputs           = make(chan output, 8)
		saves             = make(chan *save, 1)
		saved             = make(chan *save, 1)
		finished          = make(chan struct{})
	)
	defer stop()
	g.Go(func() error { return l.read(stopReading, l.fold.covered+1, messages) })
	g.Go(func() error {
		defer stop()
		defer close(outputs)
		return l.foldAll(ctx, work, messages, outputs, saved)
	})
	g.Go(func() error {
		defer close(saves)
		return l.publish(work, outputs, saves)
	})
	g.Go(func() error {
		defer close(finished)
		return l.keep(work, saves, saved)
	})
	g.Go(func() error { return supervise(ctx, work, finished) })
	return unlessAsked(ctx, g.Wait())
}

// unlessAsked drops an error that only says that ctx has ended.
func unlessAsked(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// supervise ends the work of a lane that is lost, or that takes too long to stop.
func supervise(ctx, work context.Context, finished <-chan struct{}) error {
	select {
	case <-work.Done():
		return nil
	case <-finished:
		return nil
	case <-ctx.Done():
	}
	if errors.Is(context.Cause(ctx), lanes.ErrLost) {
		return context.Cause(ctx)
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-work.Done():
	case <-finished:
	case <-t.C:
		return fmt.Errorf("not stopped within %v: %w", grace, context.Cause(ctx))
	}
	return nil
}

// take makes the lane ours and brings its state back.
func (l *lane) take(ctx context.Context) error {
	set, err := window.New(l.config)
	if err != nil {
		return err
	}
	state, m, err := checkpoint.Open(ctx, checkpoint.Config{
		JS: l.js, Pipeline: l.pipeline, Stage: stageName, Lane: l.index,
		SealAfter: max(l.config.Window/16, time.Millisecond),
	})
	if err != nil {
		return err
	}
	// Before anything is loaded: it may take a while, and a lane that cannot work tries often.
	if err := fencedlog.Verify(ctx, l.js, l.input, m.GetCoveredSequence(), time.Unix(0, m.GetCoveredTimeNs())); err != nil {
		return err
	}
	if err := l.restore(ctx, state, set, m); err != nil {
		return err
	}
	// From here on whoever had the lane before can append no more.
	writer, past, err := fencedlog.Open(ctx, l.js, l.output, strconv.Itoa(l.index), fencedlog.Options{
		Lanes: []int{l.index}, Wait: l.waiting,
	})
	if err != nil {
		return err
	}
	published, err := publishedOf(past, l.index)
	if err != nil {
		return fmt.Errorf("position of lane %d in %s: %w", l.index, l.output.Stream(), err)
	}
	if published < m.GetCoveredSequence() {
		return fmt.Errorf("%w: %s covers the input of lane %d up to sequence %d, the checkpoint up to %d",
			fencedlog.ErrTailLost, l.output.Stream(), l.index, published, m.GetCoveredSequence())
	}
	// What was published was decided under the window of the checkpoint, and so it is replayed.
	if w := m.GetWindowMs(); w > 0 {
		if err := set.SetWindow(time.Duration(w) * time.Millisecond); err != nil {
			return err
		}
	}
	l.state, l.writer = state, writer
	l.fold = &fold{
		set: set, eventTime: l.config.EventTime,
		covered: m.GetCoveredSequence(), coveredTimeNS: m.GetCoveredTimeNs(),
		published: published, tally: batch.TallyOf(m.GetTally()),
		wantWindow: l.config.Window, fresh: m.GetWindowMs() == 0,
	}
	return nil
}

func (l *lane) restore(ctx context.Context, state *checkpoint.Lane, set *window.Set, m *eventv1.Manifest) error {
	began, entries := time.Now(), 0
	st := window.State{HorizonMS: m.GetHorizonMs(), Writers: map[string]window.Writer{}}
	for name, maxMS := range m.GetMaxTimeMs() {
		st.Writers[name] = window.Writer{MaxMS: maxMS, ArrivalMS: m.GetArrivalMs()[name]}
	}
	for _, s := range m.GetSegments() {
		entries += int(s.GetEntries())
	}
	if m.GetWindowMs() > 0 { // else nothing was ever saved
		set.RestoreState(st)
	}
	if entries > 0 {
		set.Reserve(entries)
	}
	size := window.EntryBytes(l.config.Latest)
	err := state.Restore(ctx, func(s *eventv1.Segment, data []byte) error {
		if len(data) != int(s.GetEntries())*size {
			return fmt.Errorf("%w: %d entries in %d bytes: made for another dedup.keep", checkpoint.ErrDamaged, s.GetEntries(), len(data))
		}
		return set.Restore(data)
	})
	if err != nil {
		return err
	}
	l.log.Info("lane taken", "covered", m.GetCoveredSequence(), "keys", set.Len(), "segments", len(m.GetSegments()), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// publishedOf tells up to which input sequence a writer's outputs are in the log: as far as its last
// message says, or, if that was purged, as its fence does.
func publishedOf(past fencedlog.Recovered, lane int) (uint64, error) {
	published, err := positionOf(string(past.Body))
	if err != nil {
		return 0, err
	}
	last, err := positionOf(past.Last[lane].Position)
	return max(published, last), err
}

func positionOf(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

func position(sequence uint64) string { return strconv.FormatUint(sequence, 10) }

// waiting shows what the lane waits for; nil says that it works again.
func (l *lane) waiting(err error) {
	if err == nil {
		l.unit.Running()
		return
	}
	l.unit.Report(func(s *stagev1.UnitStatus) {
		s.Condition, s.LastError, s.LastErrorTime = stagev1.UnitStatus_WAITING, err.Error(), timestamppb.Now()
	})
}
