package control

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/registry"
)

// retryAfter is the pause before a look after the pipelines that failed is repeated.
const retryAfter = time.Second

// keepUp watches the records. It makes missing streams and buckets when a record is new or has
// changed and every CheckEvery, and finishes deletions. What fails is tried again.
func (s *Service) keepUp(ctx context.Context) error {
	pictures := make(chan map[string]*controlv1.PipelineRecord, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.registry.Watch(ctx, func(picture map[string]*controlv1.PipelineRecord) {
			select {
			case <-pictures: // the older picture is of no use any more
			default:
			}
			pictures <- picture
		})
	})
	g.Go(func() error { return s.watchOrphans(ctx) })
	g.Go(func() error { return s.watchGuarantees(ctx) })
	g.Go(func() error {
		var picture map[string]*controlv1.PipelineRecord
		kept := map[string]uint64{} // generation by uid of the pipelines that are complete
		next := time.NewTimer(s.config.CheckEvery)
		defer next.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case picture = <-pictures:
			case <-next.C:
				clear(kept)
				s.kafka.sweep(time.Now())
			}
			s.metrics.picture(picture)
			well := s.look(ctx, picture, kept)
			if ctx.Err() == nil {
				s.metrics.round(ctx, well)
			}
			if well {
				next.Reset(s.config.CheckEvery)
			} else {
				next.Reset(min(retryAfter, s.config.CheckEvery))
			}
		}
	})
	return g.Wait()
}

// look sees to every pipeline of a picture and tells whether all is well.
func (s *Service) look(ctx context.Context, picture map[string]*controlv1.PipelineRecord, kept map[string]uint64) bool {
	well := true
	var deletions errgroup.Group
	for id, rec := range picture {
		if rec.Desired == controlv1.DesiredState_DELETING {
			// One that waits for units that do not answer must not hold up the others.
			deletions.Go(func() error {
				err := s.finishDelete(ctx, rec)
				s.tell(ctx, id, "deletion", err)
				return err
			})
			continue
		}
		if err := s.keepCopy(ctx, id); err != nil {
			s.tell(ctx, id, "copy of the record", err)
			well = false
			continue
		}
		if done, err := s.retireLanes(ctx, rec); err != nil || !done {
			well = false
			if err != nil && ctx.Err() == nil {
				s.log.Warn("the change of lanes cannot be finished; trying again", "pipeline", id, "error", err)
			}
		} else if len(rec.LaneSets) > 1 {
			delete(kept, rec.Uid) // the old lanes' state is to be removed
		}
		if kept[rec.Uid] == rec.Generation {
			continue
		}
		done, err := s.complete(ctx, id, rec.Uid)
		s.tell(ctx, id, "streams and bucket", err)
		if err != nil {
			well = false
			continue
		}
		if done {
			kept[rec.Uid] = rec.Generation
		}
	}
	return deletions.Wait() == nil && well
}

// complete makes what a pipeline lacks, unless it was deleted since the picture was taken. done is false when there is more to do later.
func (s *Service) complete(ctx context.Context, id, uid string) (done bool, err error) {
	unlock, err := s.locks.lock(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	rec, _, err := s.registry.Get(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return true, nil
	case err != nil:
		return false, err
	case rec.Uid != uid || rec.Desired == controlv1.DesiredState_DELETING:
		return true, nil
	}
	if err := s.ensure(ctx, rec.Spec); err != nil {
		return false, err
	}
	return s.emptyLanes(ctx, rec)
}
