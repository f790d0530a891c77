package fold

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
)

const (
	// reportInterval is how often a lane at full speed shows where it is.
	reportInterval = 100 * time.Millisecond
	// queue is how many messages may wait to be appended.
	queue = 8
)

// output is one thing to do after all outputs before it: append a message or dead letters, or make a checkpoint.
type output struct {
	lane     int
	position position
	input    fencedlog.Mark // the message of the position's step
	data     []byte
	refusals []deadletters.Refusal
	save     *save
	trace    trace.SpanContext // of the step
}

// save is a checkpoint on its way.
type save struct {
	manifest *eventv1.Manifest
	chunks   []checkpoint.Chunk
	replies  []chan<- error
}

// folding is the fold's own bookkeeping of checkpoints.
type folding struct {
	*lane
	out   *emitter
	saved <-chan *save

	saving *save          // on its way; nil when there is none
	asked  []chan<- error // to be answered by the next checkpoint
	bytes  int            // of input since the last checkpoint was begun
	at     uint64         // covered by the last checkpoint begun
	moved  time.Time      // when the lane last moved on without messages of its own
	stuck  error          // why no more input is taken; nil when all is well
}

// foldAll folds the messages until ctx ends; then it makes a last checkpoint.
func (l *lane) foldAll(ctx, work context.Context, messages <-chan fencedlog.Message, outputs chan<- output, saved <-chan *save) error {
	f := &folding{lane: l, out: newEmitter(work, l.Outputs, outputs), saved: saved, at: l.fold.covered.Sequence, moved: time.Now()}
	tick := time.NewTicker(l.Interval)
	defer tick.Stop()
	var reported time.Time
	idle := false // no message since the last tick
	var ending <-chan time.Time
	if l.Replaced {
		t := time.NewTicker(min(settleInterval, l.Interval))
		defer t.Stop()
		ending = t.C
	}
	for {
		in := messages
		if f.stuck != nil || f.saving != nil && f.bytes > 4*l.Bytes {
			in = nil // what is not in a checkpoint is in memory: that is bounded
		}
		select {
		case <-work.Done():
			return context.Cause(work)
		case <-ctx.Done():
			return f.last(work)
		case s := <-saved:
			f.done(s)
		case reply := <-l.Unit.Checkpoints():
			f.asked = append(f.asked, reply)
		case <-tick.C:
			if idle && f.stuck == nil {
				f.moveOn(work)
			}
			if f.at != l.fold.covered.Sequence && f.saving == nil {
				if err := f.checkpoint(); err != nil {
					return err
				}
			}
			if f.stuck != nil {
				f.waiting(f.stuck) // also when something else has worked again since
			}
			idle = true
		case <-ending:
			over, err := f.drained(work)
			if err != nil {
				f.Log.Debug("cannot look whether the lane has come to its end", "error", err)
			}
			if over && f.stuck == nil {
				if err := f.settle(work); err != nil {
					return err
				}
				return f.close(work)
			}
		case m := <-in:
			idle = false
			if err := f.take(work, m); err != nil {
				return err
			}
			if m.Pending == 0 || time.Since(reported) >= reportInterval {
				reported = time.Now()
				if f.stuck == nil {
					l.fold.report(l.Unit, m.Pending)
				}
			}
		}
		if f.saving == nil && (len(f.asked) > 0 || f.bytes >= l.Bytes) {
			if err := f.checkpoint(); err != nil {
				return err
			}
		}
	}
}

// take folds one message.
func (f *folding) take(work context.Context, m fencedlog.Message) error {
	begun := f.fold.inLog(m.Sequence, 0) || f.refused.covers(position{f.fold.epoch, m.Sequence, 0})
	if adopter, ok := f.core.(Adopter); ok && !begun {
		changed, err := adopter.Adopt()
		if err != nil {
			return err
		}
		if changed {
			// What the outputs are decided under must be on record before they are.
			if err := f.flush(work); err != nil {
				return err
			}
		}
	}
	began, before := time.Now(), f.fold.tally
	err := f.fold.step(m, f.out)
	switch {
	case err == nil:
	case work.Err() != nil:
		return context.Cause(work)
	case f.out.emitted || errors.Is(err, ErrBroken):
		return err
	default:
		// A format that a newer version wrote, or bytes that nobody wrote: to skip it would lose
		// events, so the lane stands still and says why until somebody helps.
		f.Log.Error("lane stands still", "error", err)
		f.stuck = err
		f.waiting(err)
		return nil
	}
	f.Stepped(work, Step{Input: f.fold.input, Before: before, After: f.fold.tally, Bytes: len(m.Data), Took: time.Since(began)})
	f.bytes += len(m.Data)
	return nil
}

// checkpoint begins a checkpoint of the state as it is now. None may be on its way.
func (f *folding) checkpoint() error {
	s := &save{manifest: f.manifest(), replies: f.asked}
	s.manifest.Closed = f.closed
	s.chunks = f.core.Checkpoint(s.manifest)
	f.saving, f.asked, f.bytes, f.at = s, nil, 0, f.fold.covered.Sequence
	return f.out.send(output{position: position{f.fold.epoch, f.fold.covered.Sequence, whole}, save: s})
}

func (f *folding) done(s *save) {
	for _, r := range s.replies {
		r <- nil
	}
	f.saving = nil
}

// settle waits until no checkpoint is on its way.
func (f *folding) settle(work context.Context) error {
	if f.saving == nil {
		return nil
	}
	select {
	case s := <-f.saved:
		f.done(s)
		return nil
	case <-work.Done():
		return context.Cause(work)
	}
}

// flush makes a checkpoint and waits until it is durable.
func (f *folding) flush(work context.Context) error {
	if err := f.settle(work); err != nil {
		return err
	}
	if err := f.checkpoint(); err != nil {
		return err
	}
	return f.settle(work)
}

// last is the end in good order: the next owner has nothing to replay.
func (f *folding) last(work context.Context) error {
	if err := f.settle(work); err != nil {
		return err
	}
	if f.at == f.fold.covered.Sequence && len(f.asked) == 0 {
		return nil
	}
	return f.flush(work)
}

// moveOn lets an idle lane cover what the log holds for others.
func (f *folding) moveOn(work context.Context) {
	end, err := f.end(work, f.fold.covered, time.Since(f.moved) >= idleTurns*f.Interval)
	switch {
	case err != nil:
		f.Log.Debug("idle lane cannot look at the log", "error", err)
	case end.Sequence > f.fold.covered.Sequence:
		f.fold.covered, f.moved = end, time.Now()
		f.fold.report(f.Unit, 0)
	}
}
