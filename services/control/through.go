package control

import (
	"context"
	"errors"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/spec"
)

// The lag goes by what the stages have counted. Once a log has lost its tail, or a position went back, their counts may differ for good: what one has counted may be gone
// under the other. Then durable positions tell whether anything is on its way, some seconds later than counts would.

// healed tells whether a unit has healed from a loss: one that works has nothing else to complain of.
func healed(units []*stagev1.UnitStatus) bool {
	for _, u := range units {
		if u.GetHealedRows() > 0 || u.GetCondition() == stagev1.UnitStatus_RUNNING && u.GetLastError() != "" {
			return true
		}
	}
	return false
}

// lagOfHealed corrects the lag of a pipeline that has healed.
func (s *Service) lagOfHealed(ctx context.Context, rec *controlv1.PipelineRecord, at map[string]*offsets, units []*stagev1.UnitStatus, st *controlv1.PipelineStatus) error {
	ingest := map[unitName]*stagev1.UnitStatus{}
	for _, u := range units {
		if u.GetStage() == spec.StageIngest {
			ingest[nameOf(u)] = u
		}
	}
	if waiting, begun := inKafka(rec, at, ingest); waiting > 0 || !begun {
		st.Lag = max(st.Lag, uint64(max(0, waiting)))
		return nil
	}
	through, err := s.through(ctx, rec)
	switch {
	case err != nil:
		return err
	case through:
		st.Lag = 0
	default:
		st.Lag = max(st.Lag, 1)
	}
	return nil
}

// through tells whether all that the logs hold by now has come to its end: a stage's position is durable once what was made of its input is.
func (s *Service) through(ctx context.Context, rec *controlv1.PipelineRecord) (bool, error) {
	id, stages := rec.GetSpec().GetId(), spec.Stages(rec.GetSpec())
	for i, stage := range stages[1:] {
		log := fencedlog.Log{Pipeline: id, Stage: stages[i]}
		for _, lane := range spec.LiveLanes(rec) {
			// The order matters: the end first, the position then.
			last, err := fencedlog.LastOf(ctx, s.js, log, lane)
			if err != nil {
				return false, err
			}
			at, err := checkpoint.ReachedBy(ctx, s.js, id, stage, lane)
			if err != nil {
				return false, err
			}
			if at.Closed {
				continue
			}
			if at.Sequence < last {
				return false, nil
			}
			// One that has yet to notice a loss has numbers of before.
			err = fencedlog.Verify(ctx, s.js, log, at.Sequence, at.Time)
			if err != nil {
				if errors.Is(err, fencedlog.ErrTailLost) {
					err = nil
				}
				return false, err
			}
		}
	}
	return true, nil
}
