package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/receipts"
	"sluice/libs/registry"
)

// A pipeline whose record is gone while its streams are there was not deleted, as the record goes last then: the registry has lost it (an earlier copy was
// put back, a power loss). Nothing is removed by itself, since a later copy of the registry would make all of it good, and no other pipeline of
// the id is begun beside it, since that would read again what is in the table. Streams that never held a message are of a creation that was
// cut off, and do not count: a stage works only by a record.

// ownerOf is the id of the pipeline whose stream it is. Ids have no underscores.
func ownerOf(stream string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(stream, "KV_"), "sluice_")
	if !ok {
		return "", false
	}
	id, _, ok = strings.Cut(rest, "_")
	return id, ok && slices.Contains(streamsOf(id), stream)
}

// streamsOf are the streams that a pipeline may have.
func streamsOf(id string) []string {
	names := make([]string, 0, len(logStages)+2)
	for _, stage := range logStages {
		names = append(names, fencedlog.Log{Pipeline: id, Stage: stage}.Stream())
	}
	return append(names, receipts.Stream(id), "KV_"+checkpoint.Bucket(id))
}

// orphans finds what pipelines without a record have left, by id.
func (s *Service) orphans(ctx context.Context) ([]*controlv1.Orphan, error) {
	held := map[string][]string{}
	list := s.js.ListStreams(ctx)
	for info := range list.Info() {
		if id, ok := ownerOf(info.Config.Name); ok && info.State.LastSeq > 0 {
			held[id] = append(held[id], info.Config.Name)
		}
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	// Records after streams: one that was made meanwhile has its record by now.
	records, err := s.registry.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		delete(held, rec.GetSpec().GetId())
	}
	var found []*controlv1.Orphan
	for id := range held {
		// Again, in that order: a deletion may have ended in between, and removes the record last.
		_, _, err := s.registry.Get(ctx, id)
		if err == nil {
			continue
		}
		if !errors.Is(err, registry.ErrNotFound) {
			return nil, err
		}
		streams, err := s.left(ctx, id)
		if err != nil {
			return nil, err
		}
		if len(streams) > 0 {
			found = append(found, &controlv1.Orphan{Id: id, Streams: streams})
		}
	}
	slices.SortFunc(found, func(a, b *controlv1.Orphan) int { return strings.Compare(a.GetId(), b.GetId()) })
	return found, nil
}

// left are the streams of an id that hold, or have ever held, something.
func (s *Service) left(ctx context.Context, id string) ([]string, error) {
	var left []string
	for _, name := range streamsOf(id) {
		stream, err := s.js.Stream(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
		case err != nil:
			return nil, fmt.Errorf("look for stream %s: %w", name, err)
		case stream.CachedInfo().State.LastSeq > 0:
			if only, err := onlyCopy(ctx, stream, id); err != nil || only {
				if err != nil {
					return nil, fmt.Errorf("look into stream %s: %w", name, err)
				}
				continue
			}
			left = append(left, name)
		}
	}
	return left, nil
}

// onlyCopy tells whether a stream is a state bucket that has nothing but the copy of the record.
func onlyCopy(ctx context.Context, stream jetstream.Stream, id string) (bool, error) {
	bucket := checkpoint.Bucket(id)
	if stream.CachedInfo().Config.Name != "KV_"+bucket {
		return false, nil
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("$KV."+bucket+".>"))
	if err != nil {
		return false, err
	}
	_, held := info.State.Subjects["$KV."+bucket+"."+recordKey]
	return held && len(info.State.Subjects) == 1, nil
}

// notOrphaned refuses an id whose earlier pipeline the registry has lost.
func (s *Service) notOrphaned(ctx context.Context, id string) error {
	left, err := s.left(ctx, id)
	if err != nil {
		return stored(ctx, err)
	}
	if len(left) == 0 {
		return nil
	}
	return codef(codes.FailedPrecondition, "pipeline %q has no record, but %s: the registry (bucket %s) has lost it, and a new pipeline of that id would write again what is in the table; "+
		"put a later copy of the bucket back, or remove what is left by `sluice delete %s` and create the pipeline with the start of choice",
		id, holding(left), registry.PipelinesBucket, id)
}

func holding(streams []string) string {
	if len(streams) == 1 {
		return "stream " + streams[0] + " holds data"
	}
	return "streams " + strings.Join(streams, ", ") + " hold data"
}

// deleteOrphan removes what a lost pipeline has left, as somebody has asked for it. found: there was something.
func (s *Service) deleteOrphan(ctx context.Context, id string) (found bool, err error) {
	unlock, err := s.locks.lock(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	if _, _, err := s.registry.Get(ctx, id); !errors.Is(err, registry.ErrNotFound) {
		return false, err
	}
	left, err := s.left(ctx, id)
	if err != nil || len(left) == 0 {
		return false, err
	}
	if err := s.remove(ctx, id); err != nil {
		return true, err
	}
	s.log.Warn("what a pipeline without a record had left was deleted", "pipeline", id, "streams", left)
	return true, nil
}

// lookForOrphans tells of each orphan once, and once that it is none any more. told is what was told so far.
func (s *Service) lookForOrphans(ctx context.Context, told map[string]bool) error {
	found, err := s.orphans(ctx)
	if err != nil {
		return err
	}
	s.metrics.orphans.Store(int64(len(found)))
	now := map[string]bool{}
	for _, o := range found {
		now[o.GetId()] = true
		if !told[o.GetId()] {
			told[o.GetId()] = true
			s.log.Warn("a pipeline has no record, but its streams hold data: the registry has lost it; nothing is removed by itself",
				"pipeline", o.GetId(), "streams", o.GetStreams())
		}
	}
	for id := range told {
		if !now[id] {
			delete(told, id)
			s.log.Info("the pipeline without a record is no longer there, or has one again", "pipeline", id)
		}
	}
	return nil
}

// watchOrphans looks for orphans now and every CheckEvery.
func (s *Service) watchOrphans(ctx context.Context) error {
	told := map[string]bool{}
	next := time.NewTicker(s.config.CheckEvery)
	defer next.Stop()
	for {
		if err := s.lookForOrphans(ctx, told); err != nil && ctx.Err() == nil {
			s.metrics.failed(ctx, err) // the next round tries again
			s.log.Debug("look for pipelines without a record", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.C:
		}
	}
}
