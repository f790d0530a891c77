package dedup

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
)

const (
	// settleBytes is how much is appended before the fence is renewed, so that the dedup log can be
	// purged up to there.
	settleBytes = 8 << 20
	// reportInterval is how often a lane at full speed shows where it is.
	reportInterval = 100 * time.Millisecond
)

// output is one thing to do after all outputs before it: append a message, or make a checkpoint.
type output struct {
	sequence uint64 // of the input
	data     []byte
	save     *save
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
	outputs chan<- output
	saved   <-chan *save

	saving  *save          // on its way; nil when there is none
	asked   []chan<- error // to be answered by the next checkpoint
	bytes   int            // of input since the last checkpoint was begun
	at      uint64         // covered by the last checkpoint begun
	stuck   error          // why no more input is taken; nil when all is well
	buffers [][]byte
}

// foldAll folds the messages until ctx ends; then it makes a last checkpoint.
func (l *lane) foldAll(ctx, work context.Context, messages <-chan fencedlog.Message, outputs chan<- output, saved <-chan *save) error {
	f := &folding{lane: l, outputs: outputs, saved: saved, at: l.fold.covered}
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	var reported time.Time
	idle := false // no message since the last tick
	for {
		in := messages
		if f.stuck != nil || f.saving != nil && f.bytes > 4*l.bytes {
			in = nil // what is not in a checkpoint is in memory: that is bounded
		}
		select {
		case <-work.Done():
			return context.Cause(work)
		case <-ctx.Done():
			return f.last(work)
		case s := <-saved:
			f.done(s)
		case reply := <-l.unit.Checkpoints():
			f.asked = append(f.asked, reply)
		case <-tick.C:
			if idle && f.stuck == nil {
				f.moveOn(work)
			}
			if f.at != l.fold.covered && f.saving == nil {
				if err := f.checkpoint(work); err != nil {
					return err
				}
			}
			if f.stuck != nil {
				f.waiting(f.stuck) // also when something else has worked again since
			}
			idle = true
		case m := <-in:
			idle = false
			if err := f.take(work, m); err != nil {
				return err
			}
			if m.Pending == 0 || time.Since(reported) >= reportInterval {
				reported = time.Now()
				if f.stuck == nil {
					l.fold.report(l.unit, m.Pending)
				}
			}
		}
		if f.saving == nil && (len(f.asked) > 0 || f.bytes >= l.bytes) {
			if err := f.checkpoint(work); err != nil {
				return err
			}
		}
	}
}

// take folds one message and hands its output on.
func (f *folding) take(work context.Context, m fencedlog.Message) error {
	if f.fold.changesWindow(m) {
		if err := f.fold.set.SetWindow(f.fold.wantWindow); err != nil {
			return err
		}
		if err := f.flush(work); err != nil {
			return err
		}
		f.fold.fresh = false
	}
	began := time.Now()
	before, late := f.fold.tally, f.fold.set.Late()
	data, err := f.fold.step(m, f.buffer(len(m.Data)))
	if err != nil {
		// A format that a newer version wrote, or bytes that nobody wrote: to skip it would lose
		// events, so the lane stands still and says why until somebody helps.
		f.log.Error("lane stands still", "error", err)
		f.stuck = err
		f.waiting(err)
		return nil
	}
	f.metrics.batch(work, before, f.fold.tally, f.fold.set.Late()-late, len(m.Data), time.Since(began))
	f.bytes += len(m.Data)
	if data == nil {
		return nil
	}
	return f.send(work, output{sequence: m.Sequence, data: data})
}

// buffer returns memory for an output. There is one more than can be in the queue, in the hands of
// publish, and in ours, so that the oldest is free again.
func (f *folding) buffer(size int) []byte {
	if f.buffers == nil {
		f.buffers = make([][]byte, cap(f.outputs)+3)
	}
	b := f.buffers[0]
	copy(f.buffers, f.buffers[1:])
	if cap(b) < size+512 {
		b = make([]byte, 0, size+size/4+512)
	}
	f.buffers[len(f.buffers)-1] = b
	return b[:0]
}

func (f *folding) send(work context.Context, o output) error {
	select {
	case f.outputs <- o:
		return nil
	case <-work.Done():
		return context.Cause(work)
	}
}

// checkpoint begins a checkpoint of the state as it is now. None may be on its way.
func (f *folding) checkpoint(work context.Context) error {
	s := &save{manifest: f.fold.manifest(), replies: f.asked}
	for _, c := range f.fold.set.Take() {
		s.chunks = append(s.chunks, checkpoint.Chunk(c))
	}
	f.saving, f.asked, f.bytes, f.at = s, nil, 0, f.fold.covered
	return f.send(work, output{sequence: f.fold.covered, save: s})
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
	if err := f.checkpoint(work); err != nil {
		return err
	}
	return f.settle(work)
}

// last is the end in good order: the next owner has nothing to replay.
func (f *folding) last(work context.Context) error {
	if err := f.settle(work); err != nil {
		return err
	}
	if f.at == f.fold.covered && len(f.asked) == 0 {
		return nil
	}
	return f.flush(work)
}

// moveOn lets an idle lane cover what the log holds for others.
func (f *folding) moveOn(work context.Context) {
	sequence, at, err := f.end(work, f.fold.covered)
	switch {
	case err != nil:
		f.log.Debug("idle lane cannot look at the log", "error", err)
	case sequence > f.fold.covered:
		f.fold.covered, f.fold.coveredTimeNS = sequence, at
		f.fold.report(f.unit, 0)
	}
}

// publish appends the outputs one after the other, and passes checkpoints on when all outputs before
// them are acknowledged.
func (l *lane) publish(work context.Context, outputs <-chan output, saves chan<- *save) error {
	for o := range outputs {
		if o.save == nil {
			if _, err := l.writer.Append(work, l.index, position(o.sequence), o.data); err != nil {
				return err
			}
			if l.writer.Unsettled() < settleBytes {
				continue
			}
		}
		// The fence says that everything up to here is in the log, also once those messages are
		// purged. It is never behind the checkpoint: a log that is has lost its tail.
		if err := l.writer.Settle(work, []byte(position(max(o.sequence, l.fold.published)))); err != nil {
			return err
		}
		if o.save == nil {
			continue
		}
		select {
		case saves <- o.save:
		case <-work.Done():
			return context.Cause(work)
		}
	}
	return nil
}

// keep makes checkpoints durable, and purges from the ingest log what no lane needs any more.
func (l *lane) keep(work context.Context, saves <-chan *save, saved chan<- *save) error {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	for {
		select {
		case <-work.Done():
			return context.Cause(work)
		case s, more := <-saves:
			if !more {
				return nil
			}
			if err := l.save(work, s); err != nil {
				return err
			}
			saved <- s // never blocks: one is on its way at most
		case <-tick.C:
			if err := l.purge(work); err != nil && work.Err() == nil {
				l.log.Warn("cannot purge", "log", l.input.Stream(), "error", err)
			}
		}
	}
}

// save repeats a checkpoint until it is made, or another has the lane.
func (l *lane) save(work context.Context, s *save) error {
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		began := time.Now()
		err := l.state.Save(work, s.manifest, s.chunks)
		if err == nil {
			l.metrics.checkpoint(work, time.Since(began))
			if waited {
				l.waiting(nil)
			}
			return nil
		}
		if errors.Is(err, checkpoint.ErrConflict) {
			return err
		}
		waited = true
		l.waiting(fmt.Errorf("checkpoint: %w", err))
		select {
		case <-work.Done():
			return context.Cause(work)
		case <-time.After(backoff):
		}
	}
}

// purge is the first lane's task: one purge serves all. The message at the lowest position stays, so
// that its time still tells whether the log lost its tail.
func (l *lane) purge(work context.Context) error {
	if l.index != 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(work, l.interval)
	defer cancel()
	lowest, err := checkpoint.Lowest(ctx, l.js, l.pipeline, stageName, l.lanes)
	if err != nil {
		return err
	}
	return fencedlog.Purge(ctx, l.js, l.input, lowest)
}
