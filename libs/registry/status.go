package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	stagev1 "sluice/gen/sluice/stage/v1"
)

// UnitName is what a unit is called within its stage: the number of a lane or partition, after the source if there are two.
func UnitName(source string, unit uint32) string {
	name := strconv.FormatUint(uint64(unit), 10)
	if source != "" {
		name = source + "-" + name
	}
	return name
}

// PutStatus stores the condition of a unit in place of what was there before.
func (r *Registry) PutStatus(ctx context.Context, s *stagev1.UnitStatus) error {
	key := s.GetPipeline() + "." + s.GetStage() + "." + UnitName(s.GetSource(), s.GetUnit())
	data, err := proto.Marshal(s)
	if err != nil {
		return fmt.Errorf("store status %s: %w", key, err)
	}
	err = r.write(ctx, r.status, func(ctx context.Context, kv jetstream.KeyValue) error {
		_, err := kv.Put(ctx, key, data)
		return err
	})
	if err != nil {
		return fmt.Errorf("store status %s: %w", key, err)
	}
	return nil
}

// Statuses returns what is stored of a pipeline's units, by stage, source and unit. Units that have not
// written since NATS started are not in it, and units of an earlier pipeline of that id may be.
func (r *Registry) Statuses(ctx context.Context, id string) ([]*stagev1.UnitStatus, error) {
	var statuses []*stagev1.UnitStatus
	err := r.read(ctx, r.status, func(ctx context.Context, kv jetstream.KeyValue) error {
		found, err := entries(ctx, kv, id+".>")
		if err != nil {
			return err
		}
		statuses = make([]*stagev1.UnitStatus, 0, len(found))
		for _, entry := range found {
			s := &stagev1.UnitStatus{}
			if err := proto.Unmarshal(entry.Value(), s); err != nil {
				return fmt.Errorf("status %s: %w", entry.Key(), err)
			}
			statuses = append(statuses, s)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errGone) {
		return nil, fmt.Errorf("statuses of pipeline %q: %w", id, err)
	}
	slices.SortFunc(statuses, func(a, b *stagev1.UnitStatus) int {
		return cmp.Or(cmp.Compare(a.GetStage(), b.GetStage()), cmp.Compare(a.GetSource(), b.GetSource()), cmp.Compare(a.GetUnit(), b.GetUnit()))
	})
	return statuses, nil
}

// DeleteStatuses removes what is stored of a pipeline's units, without a trace.
func (r *Registry) DeleteStatuses(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	stream, err := r.js.Stream(ctx, "KV_"+StatusBucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+StatusBucket+"."+id+".>"))
	}
	if err != nil {
		return fmt.Errorf("delete statuses of pipeline %q: %w", id, err)
	}
	return nil
}
