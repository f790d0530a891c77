package fold

import (
	"context"
	"fmt"
	"time"

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
		JS: l.JS, Pipeline: l.Pipeline, Stage: l.Stage, Lane: l.Lane, SealAfter: l.SealAfter,
	})
	if err != nil {
		return err
	}
	// Before anything is loaded: it may take a while, and a lane that cannot work tries often.
	if err := fencedlog.Verify(ctx, l.JS, l.Input, m.GetCoveredSequence(), time.Unix(0, m.GetCoveredTimeNs())); err != nil {
		return err
	}
	if err := l.restore(ctx, state, m); err != nil {
		return err
	}
	// From here on whoever had the lane before can append no more.
	writer, past, err := fencedlog.Open(ctx, l.JS, l.Output, l.Options.writer(), fencedlog.Options{
		Lanes: l.Outputs, Wait: l.waiting,
	})
	if err != nil {
		return err
	}
	published, err := l.publishedOf(past)
	if err != nil {
		return err
	}
	if published.step < m.GetCoveredSequence() {
		return fmt.Errorf("%w: %s covers the input of lane %d up to sequence %d, the checkpoint up to %d",
			fencedlog.ErrTailLost, l.Output.Stream(), l.Lane, published.step, m.GetCoveredSequence())
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
	l.state, l.writer = state, writer
	l.fold = &fold{
		core: l.core, published: published, epoch: m.GetEpoch(),
		covered: fencedlog.Mark{Sequence: m.GetCoveredSequence(), Time: time.Unix(0, m.GetCoveredTimeNs())},
		tally:   batch.TallyOf(m.GetTally()),
		trace:   newTracing(&l.Options),
	}
	return nil
}

func (l *lane) restore(ctx context.Context, state *checkpoint.Lane, m *eventv1.Manifest) error {
	began := time.Now()
	err := l.core.Restore(ctx, m, func(each func(*eventv1.Segment, []byte) error) error { return state.Restore(ctx, each) })
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
		return
	}
	l.Unit.Report(func(s *stagev1.UnitStatus) {
		s.Condition, s.LastError, s.LastErrorTime = stagev1.UnitStatus_WAITING, err.Error(), timestamppb.Now()
	})
}
