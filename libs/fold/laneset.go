package fold

import (
	"context"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
)

// How lanes are changed: ADR 13.
//
// A lane of a set that another replaces works on until it has folded everything that will ever be in its lane of the input. Then it closes: its last
// checkpoint says so, and nobody folds it any further. A lane of the new set waits until all lanes of the old one are closed, takes over from
// their checkpoints what belongs to it, and makes that its own first checkpoint. Then it begins to read.

// Heir is a Core whose pipeline's lanes can be changed.
type Heir interface {
	// Inherit takes over what belongs to this lane of the state of the lanes before. It comes after Restore of an empty
	// checkpoint. What it takes is part of the next Checkpoint.
	Inherit(ctx context.Context, left *checkpoint.Left) error
}

// settleInterval is how often lanes look whether those that they wait for have come further.
const settleInterval = 250 * time.Millisecond

// inherit waits for the lanes before and takes over from them.
func (l *lane) inherit(ctx context.Context) error {
	heir, ok := l.core.(Heir)
	if !ok {
		return fmt.Errorf("stage %s cannot take over the state of other lanes", l.Stage)
	}
	left, err := l.left(ctx)
	if err != nil {
		return err
	}
	if err := l.begin(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := heir.Inherit(ctx, left); err != nil {
		return err
	}
	l.inherited = true
	s := &save{manifest: l.manifest()}
	s.chunks = l.core.Checkpoint(s.manifest)
	l.noteOutput(s.manifest)
	if err := l.fence(ctx); err != nil {
		return err
	}
	// Nobody may go back to before this: what was taken over is removed where it was.
	l.state.Forget()
	if err := l.save(ctx, s); err != nil {
		return err
	}
	l.Log.Info("state of the lanes before taken over", "from", l.Before.Lanes(), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// begin moves a lane that has read nothing to where the input begins: nothing of it is purged before it has a checkpoint.
func (l *lane) begin(ctx context.Context) error {
	if l.fold.covered.Sequence > 0 {
		return nil
	}
	first, _, err := fencedlog.Bounds(ctx, l.JS, l.Input)
	if err != nil || first <= 1 {
		return err
	}
	l.fold.covered.Sequence = first - 1
	return nil
}

// left waits until all lanes before are closed. Meanwhile it lets the input be purged: a full log would keep the lanes before from closing.
func (l *lane) left(ctx context.Context) (*checkpoint.Left, error) {
	tick := time.NewTicker(min(settleInterval, l.Interval))
	defer tick.Stop()
	began := time.Now()
	moved := began
	for {
		left, open, err := checkpoint.LeftBy(ctx, checkpoint.Config{JS: l.JS, Pipeline: l.Pipeline, Stage: l.Stage}, l.Before.Lanes())
		if err == nil && len(open) == 0 {
			return left, nil
		}
		if err == nil {
			err = fmt.Errorf("the pipeline's lanes have been changed: waiting for lanes %d of before to come to their end", open)
		}
		if time.Since(began) >= l.Interval { // a moment is as it should be
			l.waiting(err)
		}
		if time.Since(moved) >= l.Interval {
			moved = time.Now()
			l.giveWay(ctx)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case reply := <-l.Unit.Checkpoints():
			reply <- nil // there is nothing yet that is not in one
		case <-tick.C:
		}
	}
}

// giveWay covers what the input holds for others, and purges.
func (l *lane) giveWay(ctx context.Context) {
	end, err := l.end(ctx, l.fold.covered, true)
	if err == nil && end.Sequence > l.fold.covered.Sequence {
		l.fold.covered = end
		if err = l.fence(ctx); err == nil {
			l.state.Forget()
			m := l.manifest()
			m.PutOut = l.after
			err = l.state.Save(ctx, m, nil)
		}
	}
	if err == nil {
		err = l.purge(ctx)
	}
	if err != nil && ctx.Err() == nil {
		l.Log.Debug("cannot purge; it will be tried again", "log", l.Input.Stream(), "error", err)
	}
}

// fence says in the output log what the next checkpoint covers, as before any other: a log that says less has lost its tail.
func (l *lane) fence(ctx context.Context) error {
	settled, input := position{l.fold.epoch, l.fold.covered.Sequence, whole}, l.fold.covered
	if l.fold.published.covers(settled) {
		settled, input = l.fold.published, l.settled
	}
	return l.writer.SettleOf(ctx, []byte(settled.String()), input)
}

// manifest is the runner's part of a checkpoint.
func (l *lane) manifest() *eventv1.Manifest {
	m := l.fold.manifest()
	m.Inherited = l.inherited
	return m
}

// drained tells whether the lane, of a set that another replaces, has folded everything that will ever be in its lane of the input.
func (l *lane) drained(ctx context.Context) (bool, error) {
	if l.fold.replay != nil {
		return false, nil // rows that it knows of are still to come
	}
	ctx, cancel := context.WithTimeout(ctx, l.Interval)
	defer cancel()
	if over, err := l.inputOver(ctx); err != nil || !over {
		return false, err
	}
	// The order matters: nobody writes any more, and then the lane's last message.
	last, err := fencedlog.LastOf(ctx, l.JS, l.Input, l.Lane)
	if err != nil || last > l.fold.covered.Sequence {
		return false, err
	}
	// And then that the log is still the one that was read.
	err = fencedlog.Verify(ctx, l.JS, l.Input, l.fold.covered.Sequence, l.fold.covered.Time)
	return err == nil, err
}

// inputOver tells whether the lanes of this set get nothing more: all their writers have gone over to another set, for good.
func (l *lane) inputOver(ctx context.Context) (bool, error) {
	if l.Input.Stage != fencedlog.Ingest {
		_, open, err := checkpoint.LeftBy(ctx, checkpoint.Config{JS: l.JS, Pipeline: l.Pipeline, Stage: l.Input.Stage}, l.Set.Lanes())
		return err == nil && len(open) == 0, err
	}
	return IngestOver(ctx, l.JS, l.Pipeline, l.Set.First)
}

// close makes the last checkpoint of the lane.
func (f *folding) close(work context.Context) error {
	f.closed = true
	f.Log.Info("lane closed: another set of lanes goes on", "covered", f.fold.covered.Sequence)
	return f.flush(work)
}

// rest is what a closed lane does until it is not wanted any more: it lets go of earlier checkpoints and purges.
func (l *lane) rest(ctx context.Context) error {
	l.Unit.Running()
	tick := time.NewTicker(l.Interval)
	defer tick.Stop()
	for {
		if err := l.release(ctx); err != nil {
			return err
		}
		if err := l.purge(ctx); err != nil && ctx.Err() == nil {
			l.Log.Debug("cannot purge; it will be tried again", "log", l.Input.Stream(), "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case reply := <-l.Unit.Checkpoints():
			reply <- nil
		case <-tick.C:
		}
	}
}
