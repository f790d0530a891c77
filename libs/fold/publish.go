package fold

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
)

// settleBytes is how much is appended before the fence is renewed, so that the output log can be purged up to there.
const settleBytes = 8 << 20

// publish appends the outputs one after the other, and passes checkpoints on when all outputs before
// them are acknowledged.
func (l *lane) publish(work context.Context, outputs <-chan output, saves chan<- *save) error {
	for o := range outputs {
		switch {
		case o.refusals != nil:
			if err := l.refuse(work, o); err != nil {
				return err
			}
			continue
		case o.save == nil:
			ctx, end := l.fold.trace.append(work, o)
			sequence, err := l.writer.AppendLinked(ctx, o.lane, o.position.String(), l.link(o), o.data)
			end(sequence, err)
			if err != nil {
				return err
			}
			l.put(sequence, o.position)
			if l.writer.Unsettled() < settleBytes {
				continue
			}
		}
		// The fence says that everything up to here is in the log, also once those messages are
		// purged. It is never behind the checkpoint: a log that is has lost its tail.
		settled, input := o.position, o.input
		if l.fold.published.covers(settled) {
			settled, input = l.fold.published, l.settled
		}
		if err := l.writer.SettleOf(work, []byte(settled.String()), input); err != nil {
			return err
		}
		if o.save == nil {
			continue
		}
		l.noteOutput(o.save.manifest)
		select {
		case saves <- o.save:
		case <-work.Done():
			return context.Cause(work)
		}
	}
	return nil
}

// link says where an output belongs, of a Replayer: what that puts out once more, after both logs have lost their tails, need not be what it was.
func (l *lane) link(o output) fencedlog.Link {
	if _, ok := l.core.(Replayer); !ok {
		return fencedlog.Link{}
	}
	return fencedlog.Link{Input: o.input, After: l.after}
}

// put notes the lane's last message in the output log.
func (l *lane) put(sequence uint64, at position) {
	l.appended = sequence
	if _, ok := l.core.(Replayer); ok {
		l.after = at.String()
	}
}

// noteOutput notes in a checkpoint what was put out and refused last before it.
func (l *lane) noteOutput(m *eventv1.Manifest) {
	m.Output, m.PutOut, m.Letters = &eventv1.Mark{Sequence: l.appended}, l.after, l.lettersMark()
}

// refuse sends rows to the dead letters, unless they are there.
func (l *lane) refuse(work context.Context, o output) error {
	if l.letters == nil {
		return fmt.Errorf("stage %s refuses rows but has no dead letters", l.Stage)
	}
	// An equal position may be in by half: the writer knows.
	if l.refused != o.position && l.refused.covers(o.position) {
		return nil
	}
	return l.letters.Append(work, o.position.String(), o.refusals)
}

// keep makes checkpoints durable, and purges from the input what no lane needs any more.
func (l *lane) keep(work context.Context, saves <-chan *save, saved chan<- *save) error {
	tick := time.NewTicker(l.Interval)
	defer tick.Stop()
	letters, last := deadletters.NewWatch(l.JS, l.Pipeline), l.state.Saved().GetLetters()
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
			last = s.manifest.GetLetters()
			saved <- s // never blocks: one is on its way at most
		case <-tick.C:
			if err := letters.There(work, last, l.Interval); err != nil {
				return err
			}
			if err := l.release(work); err != nil {
				return err
			}
			if err := l.purge(work); err != nil && work.Err() == nil {
				l.Log.Debug("cannot purge; it will be tried again", "log", l.Input.Stream(), "error", err)
			}
		}
	}
}

// release lets earlier checkpoints go that the next stage has got beyond.
func (l *lane) release(work context.Context) error {
	ctx, cancel := context.WithTimeout(work, l.Interval)
	defer cancel()
	next, err := l.nextReached(ctx)
	if err != nil {
		if work.Err() == nil {
			l.Log.Debug("cannot look how far the next stage is", "stage", l.Next, "error", err)
		}
		return nil
	}
	any := l.state.Release(func(m *eventv1.Manifest) bool { return m.GetOutput().GetSequence() <= next })
	if !any {
		return nil
	}
	err = l.state.Save(ctx, l.state.Saved(), nil)
	if err == nil || errors.Is(err, checkpoint.ErrConflict) {
		return err
	}
	l.Log.Debug("earlier checkpoints not released", "error", err) // the next checkpoint does it
	return nil
}

// save repeats a checkpoint until it is made, or another has the lane.
func (l *lane) save(work context.Context, s *save) error {
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		began := time.Now()
		err := l.state.Save(work, s.manifest, s.chunks)
		if err == nil {
			l.Saved(work, time.Since(began))
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
	if l.Lane != l.Set.First {
		return nil
	}
	ctx, cancel := context.WithTimeout(work, l.Interval)
	defer cancel()
	lanes, err := checkpoint.AllCovered(ctx, l.JS, l.Pipeline, l.Stage, l.Live)
	if err != nil || len(lanes) == 0 {
		return err
	}
	if l.Same != nil { // asked after the lanes: what other lanes get from now on lies behind all that these have read
		if same, err := l.Same(ctx); err != nil || !same {
			return err
		}
	}
	marks, lowest := make([]fencedlog.Mark, 0, len(lanes)), lanes[0].Lowest
	for _, c := range lanes {
		marks = append(marks, fencedlog.Mark{Sequence: c.Sequence, Time: c.Time})
		lowest = min(lowest, c.Lowest)
	}
	// A lane that has yet to notice that the log has lost its tail has numbers of before: what lies below them may be new to it.
	if err := fencedlog.VerifyAll(ctx, l.JS, l.Input, marks); err != nil {
		if errors.Is(err, fencedlog.ErrTailLost) {
			return nil
		}
		return err
	}
	return l.purger.Purge(ctx, l.JS, l.Input, lowest, time.Now())
}
