package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fold"
	"sluice/libs/registry"
	"sluice/libs/spec"
)

// The registry can lose the last change of a record (ADR 11). So each pipeline's state bucket, which is another stream, has a copy of the record. It is written after
// the record: a copy that is later than the record says that the registry has lost its tail, and is put in the record's place.

// recordKey is the copy's key in the state bucket.
const recordKey = "record"

// touch gives a record that is changed its time, which rises with each change, whatever clocks say.
func touch(rec *controlv1.PipelineRecord) {
	now := time.Now()
	if before := rec.GetUpdateTime().AsTime(); rec.UpdateTime != nil && !now.After(before) {
		now = before.Add(time.Nanosecond)
	}
	rec.UpdateTime = timestamppb.New(now)
}

// later tells whether a record was in force after another of the same pipeline.
func later(a, b *controlv1.PipelineRecord) bool {
	if a.GetGeneration() != b.GetGeneration() {
		return a.GetGeneration() > b.GetGeneration()
	}
	return a.GetUpdateTime().AsTime().After(b.GetUpdateTime().AsTime())
}

// keepCopy brings the copy of a record up to date, or the record, if that is the older one.
func (s *Service) keepCopy(ctx context.Context, id string) error {
	kv, err := s.js.KeyValue(ctx, checkpoint.Bucket(id))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil // there will be one
	}
	if err != nil {
		return fmt.Errorf("open the state bucket: %w", err)
	}
	// The order matters: the copy is read before the record, which is written before the copy.
	held, err := copyIn(ctx, kv)
	if err != nil {
		return err
	}
	rec, rev, err := s.registry.Get(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return nil
	case err != nil:
		return err
	case rec.GetDesired() == controlv1.DesiredState_DELETING || proto.Equal(rec, held):
		return nil
	case held.GetUid() != rec.GetUid() || !later(held, rec):
		data, err := proto.Marshal(rec)
		if err != nil {
			return fmt.Errorf("encode the record: %w", err)
		}
		// A crash before this leaves an older copy, which says nothing.
		if _, err := kv.Put(ctx, recordKey, data); err != nil {
			return fmt.Errorf("copy the record: %w", err)
		}
		return nil
	}
	// What was read may be of a replica that is late: only what the leader says counts, and nothing is put over what has changed since.
	now, err := s.registry.Latest(ctx, id)
	if err != nil || now.GetUid() != held.GetUid() || !later(held, now) {
		return err
	}
	if _, err := s.registry.Update(ctx, held, rev); err != nil {
		if errors.Is(err, registry.ErrConflict) {
			return nil // next time
		}
		return err
	}
	s.metrics.recordRestored(ctx)
	s.log.Error("the registry lost the last change of a pipeline: its record was put back from the copy in its state bucket", "pipeline", id,
		"generation", held.GetGeneration(), "lost_from", now.GetGeneration(), "changed", held.GetUpdateTime().AsTime())
	return nil
}

// copyIn is the copy in a state bucket; an empty record: there is none.
func copyIn(ctx context.Context, kv jetstream.KeyValue) (*controlv1.PipelineRecord, error) {
	held := &controlv1.PipelineRecord{}
	entry, err := kv.Get(ctx, recordKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return held, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the copy of the record: %w", err)
	}
	if err := proto.Unmarshal(entry.Value(), held); err != nil {
		return nil, fmt.Errorf("read the copy of the record: %w", err)
	}
	return held, nil
}

// seenGeneration is the latest generation of a record by which anything was done, as positions of the sink and fences of the ingestor say: a change must go
// beyond it, or the stages would not take it for later.
func (s *Service) seenGeneration(ctx context.Context, rec *controlv1.PipelineRecord) (seen uint64, err error) {
	id := rec.GetSpec().GetId()
	kv, err := s.js.KeyValue(ctx, checkpoint.Bucket(id))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open the state bucket: %w", err)
	}
	for _, lane := range spec.EveryLane(rec) {
		p, _, err := positionOf(ctx, kv, lane)
		if err != nil {
			return 0, err
		}
		seen = max(seen, p.GetGeneration())
	}
	positions, err := fold.IngestPositions(ctx, s.js, id)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return seen, nil
	}
	if err != nil {
		return 0, err
	}
	for _, at := range positions {
		seen = max(seen, at.GetGeneration())
	}
	return seen, nil
}
