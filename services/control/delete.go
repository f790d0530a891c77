package control

import (
	"context"
	"errors"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/registry"
	"sluice/libs/spec"
)

// stopPoll is how often a deletion looks whether the units have stopped.
const stopPoll = 100 * time.Millisecond

// Delete removes a pipeline and returns when it is gone. Once the record says DELETING the deletion
// is finished whatever happens: when the caller leaves or this process dies, Run goes on with it,
// here or in the next control service. Of a pipeline whose record was lost it removes what is left.
func (s *Service) Delete(ctx context.Context, req *controlv1.DeleteRequest) (*controlv1.DeleteResponse, error) {
	rec, err := s.change(ctx, req.GetId(), func(rec *controlv1.PipelineRecord) (bool, error) {
		changed := rec.Desired != controlv1.DesiredState_DELETING
		rec.Desired = controlv1.DesiredState_DELETING
		return changed, nil
	})
	if errors.Is(err, registry.ErrNotFound) {
		if found, left := s.deleteOrphan(ctx, req.GetId()); found || left != nil {
			return &controlv1.DeleteResponse{}, stored(ctx, left)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := s.finishDelete(ctx, rec); err != nil {
		return nil, stored(ctx, err)
	}
	return &controlv1.DeleteResponse{}, nil
}

// finishDelete takes a pipeline that is DELETING apart. Every step may be done twice; the record goes
// last, so that a crash after any step leaves a record by which the rest is found.
func (s *Service) finishDelete(ctx context.Context, rec *controlv1.PipelineRecord) error {
	id := rec.GetSpec().GetId()
	unlock, err := s.locks.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if there, _, err := s.registry.Get(ctx, id); errors.Is(err, registry.ErrNotFound) || err == nil && there.Uid != rec.Uid {
		return nil // somebody else has finished it
	} else if err != nil {
		return err
	}
	if err := s.awaitStop(ctx, rec); err != nil {
		return err
	}
	for _, b := range spec.Branches(rec.Spec) {
		s.deleteGroup(ctx, id, b)
	}
	if err := s.remove(ctx, id); err != nil {
		return err
	}
	for {
		there, rev, err := s.registry.Get(ctx, id)
		switch {
		case errors.Is(err, registry.ErrNotFound) || err == nil && there.Uid != rec.Uid:
			s.log.Info("pipeline deleted", "pipeline", id, "uid", rec.Uid)
			return nil
		case err != nil:
			return err
		}
		if err := s.registry.Delete(ctx, id, rev); err != nil && !errors.Is(err, registry.ErrConflict) {
			return err
		}
	}
}

// awaitStop waits until every unit has reported that it stopped, but no longer than StopTimeout: an
// owner that was killed says nothing. One that still lives then finds its streams gone, which it
// waits out without harm, as only this service makes streams.
func (s *Service) awaitStop(ctx context.Context, rec *controlv1.PipelineRecord) error {
	timeout := time.NewTimer(s.config.StopTimeout)
	defer timeout.Stop()
	poll := time.NewTicker(stopPoll)
	defer poll.Stop()
	for {
		units, err := s.units(ctx, rec)
		if err != nil {
			return err
		}
		working := 0
		for _, u := range units {
			// One without an owner only says why nobody could begin.
			if u.Condition != stagev1.UnitStatus_STOPPED && u.Owner != "" {
				working++
			}
		}
		if working == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			s.log.Warn("units did not report that they stopped; going on", "pipeline", rec.Spec.GetId(), "units", working)
			return nil
		case <-poll.C:
		}
	}
}

// units returns what the units of this very pipeline have reported, not those of an earlier one that
// had its id.
func (s *Service) units(ctx context.Context, rec *controlv1.PipelineRecord) ([]*stagev1.UnitStatus, error) {
	all, err := s.registry.Statuses(ctx, rec.Spec.GetId())
	if err != nil {
		return nil, stored(ctx, err)
	}
	units := all[:0]
	for _, u := range all {
		if u.GetPipelineUid() == rec.GetUid() {
			units = append(units, u)
		}
	}
	return units, nil
}
