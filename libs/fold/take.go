package fold

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
)

// take makes the lane ours and brings its state back.
func (l *lane) take(ctx context.Context) error {
	state, m, err := checkpoint.Open(ctx, checkpoint.Config{
		JS: l.JS, Pipeline: l.Pipeline, Stage: l.Stage, Lane: l.Lane, SealAfter: l.SealAfter, Keep: true,
	})
	if err != nil {
		return err
	}
	l.state = state
	if m.GetRetired() { // its fence is gone, which would look like a loss; to take it would leave another
		return l.over(m)
	}
	if l.NotBehind != nil {
		if err := l.NotBehind(ctx, m.GetGeneration()); err != nil {
			return err
		}
	}
	// From here on whoever had the lane before can append no more.
	writer, past, err := fencedlog.Open(ctx, l.JS, l.Output, l.Options.writer(), fencedlog.Options{
		Lanes: l.Outputs, Wait: l.waiting,
	})
	if err != nil {
		return err
	}
	l.writer, l.stored = writer, m
	l.settled = past.Input
	published, err := l.publishedOf(past)
	if err != nil {
		return err
	}
	logged, both, wentBack, anew := published, error(nil), false, false
	if m.GetClosed() && !published.covers(covers(m)) {
		// Retired since we took it?
		retired, err := checkpoint.Retired(ctx, checkpoint.Config{JS: l.JS, Pipeline: l.Pipeline, Stage: l.Stage, Lane: l.Lane})
		if err != nil {
			return err
		}
		if retired {
			return l.over(m)
		}
	}
	cutOff, err := l.outputsLost(ctx, m, published, past, &logged)
	if err != nil {
		return err
	}
	if cutOff || !published.covers(covers(m)) {
		wentBack = true
		if both, err = l.bothLost(ctx, m); err != nil {
			return err
		}
		if m, err = l.goBack(ctx, logged, m, both != nil); err != nil {
			return err
		}
		anew = m.GetOutput() == nil
		published = later(published, covers(m))
		l.settled = fencedlog.Mark{Sequence: m.GetCoveredSequence(), Time: time.Unix(0, m.GetCoveredTimeNs())}
	}
	l.inherited, l.closed = m.GetInherited(), m.GetClosed()
	if l.closed { // and its outputs are in the log
		return l.over(m)
	}
	if l.Set.First > 0 && l.Before.Count == 0 && !l.inherited {
		// The lanes before are retired, which they are not before this one has what it needs of them.
		return fmt.Errorf("%s lost its tail: lane %d had taken over from the lanes before, and its checkpoint does not have that; put a later copy of the bucket back, "+
			"or delete the pipeline and create it anew", checkpoint.Bucket(l.Pipeline), l.Lane)
	}
	if l.Letters != nil {
		var last string
		if l.letters, last, err = l.Letters(ctx); err != nil {
			return err
		}
		if l.refused, err = positionOf(last); err != nil {
			return fmt.Errorf("last dead letters of lane %d: %w", l.Lane, err)
		}
	}
	// Before anything is loaded: it may take a while, and a lane that cannot work tries often.
	lost := both
	if lost == nil {
		lost = l.inputLost(ctx, m, published, past)
	}
	if lost == nil {
		lost = l.nextLost(ctx, published)
	}
	if lost != nil && !errors.Is(lost, fencedlog.ErrTailLost) {
		return lost
	}
	l.appended = m.GetOutput().GetSequence()
	if made, ok := newest(past); ok {
		l.appended = max(l.appended, made.Sequence)
	}
	if l.after, err = l.follows(m, past, wentBack); err != nil {
		return err
	}
	if err := l.restore(ctx, m); err != nil {
		return err
	}
	l.fold = &fold{
		core: l.core, published: published, epoch: m.GetEpoch(),
		generation: max(l.Generation, m.GetGeneration()),
		covered:    fencedlog.Mark{Sequence: m.GetCoveredSequence(), Time: time.Unix(0, m.GetCoveredTimeNs())},
		tally:      batch.TallyOf(m.GetTally()),
		marks:      begun(m),
		healed:     proto.CloneOf(m.GetHealed()),
		trace:      newTracing(&l.Options),
	}
	if l.fold.healed == nil {
		l.fold.healed = &eventv1.Healing{}
	}
	l.fold.rows.Store(l.fold.healed.GetRows())
	if l.fold.taken, err = batch.TakenOf(m.GetTaken()); err != nil {
		return fmt.Errorf("checkpoint of lane %d: %w", l.Lane, err)
	}
	if err := l.mendLetters(ctx, m, !wentBack); err != nil {
		return err
	}
	if lost != nil {
		if err := l.heal(ctx, m, past, lost); err != nil {
			return err
		}
	} else if l.fold.replay = m.GetReplay(); l.fold.replay != nil {
		if err := l.resume(ctx, m); err != nil {
			return err
		}
	} else if anew {
		// A crash in it finds the same.
		if err := l.anew(ctx); err != nil {
			return err
		}
	}
	if l.Before.Count > 0 && !l.inherited {
		return l.inherit(ctx)
	}
	return nil
}

// over is all that is to be taken of a lane that is closed.
func (l *lane) over(m *eventv1.Manifest) error {
	l.closed = true
	l.Unit.Report(func(s *stagev1.UnitStatus) { s.Position, s.Tally = m.GetCoveredSequence(), m.GetTally() })
	return nil
}

func (l *lane) restore(ctx context.Context, m *eventv1.Manifest) error {
	began := time.Now()
	err := l.core.Restore(ctx, m, func(each func(*eventv1.Segment, []byte) error) error { return l.state.Restore(ctx, each) })
	if err != nil {
		return err
	}
	l.Log.Info("lane taken", "covered", m.GetCoveredSequence(), "segments", len(m.GetSegments()), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// publishedOf tells up to where the writer's outputs are in the log: as far as its last messages say, or, if they
// were purged, as its fence does.
func (l *lane) publishedOf(past fencedlog.Recovered) (position, error) {
	published, err := positionOf(string(past.Body))
	if err != nil {
		return position{}, fmt.Errorf("fence of lane %d in %s: %w", l.Lane, l.Output.Stream(), err)
	}
	for _, last := range past.Last {
		p, err := positionOf(last.Position)
		if err != nil {
			return position{}, fmt.Errorf("lane %d in %s: %w", l.Lane, l.Output.Stream(), err)
		}
		published = later(published, p)
	}
	return published, nil
}

// waiting shows what the lane waits for; nil says that it works again.
func (l *lane) waiting(err error) {
	if err == nil {
		l.Unit.Running()
		if l.fold != nil && l.fold.healed.GetWhat() != "" {
			l.Unit.Report(l.fold.reportHealed)
		}
		return
	}
	l.Unit.Report(func(s *stagev1.UnitStatus) {
		s.Condition, s.LastError, s.LastErrorTime = stagev1.UnitStatus_WAITING, err.Error(), timestamppb.Now()
	})
}
