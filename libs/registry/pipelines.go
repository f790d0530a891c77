package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Get returns a record and its revision, or ErrNotFound.
func (r *Registry) Get(ctx context.Context, id string) (*controlv1.PipelineRecord, uint64, error) {
	var rec *controlv1.PipelineRecord
	var rev uint64
	err := r.read(ctx, r.pipelines, func(ctx context.Context, kv jetstream.KeyValue) error {
		entry, err := kv.Get(ctx, id)
		if err != nil {
			return err
		}
		rev = entry.Revision()
		rec, err = decode(entry)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrInvalidKey), errors.Is(err, errGone):
		return nil, 0, fmt.Errorf("%q: %w", id, ErrNotFound)
	case err != nil:
		return nil, 0, fmt.Errorf("get pipeline %q: %w", id, err)
	}
	return rec, rev, nil
}

// Create stores a new record under the id of its specification, or returns ErrExists. After any
// other error the record may be stored or not.
func (r *Registry) Create(ctx context.Context, rec *controlv1.PipelineRecord) (uint64, error) {
	id := rec.GetSpec().GetId()
	data, err := proto.Marshal(rec)
	if err != nil {
		return 0, fmt.Errorf("create pipeline %q: %w", id, err)
	}
	var rev uint64
	err = r.write(ctx, r.pipelines, func(ctx context.Context, kv jetstream.KeyValue) (err error) {
		rev, err = kv.Create(ctx, id, data)
		return err
	})
	switch {
	case errors.Is(err, jetstream.ErrKeyExists):
		return 0, fmt.Errorf("%q: %w", id, ErrExists)
	case err != nil:
		return 0, fmt.Errorf("create pipeline %q: %w", id, err)
	}
	return rev, nil
}

// Update replaces the record that has revision rev, or returns ErrConflict. After any other error
// the record may be replaced or not.
func (r *Registry) Update(ctx context.Context, rec *controlv1.PipelineRecord, rev uint64) (uint64, error) {
	id := rec.GetSpec().GetId()
	data, err := proto.Marshal(rec)
	if err != nil {
		return 0, fmt.Errorf("update pipeline %q: %w", id, err)
	}
	var next uint64
	err = r.write(ctx, r.pipelines, func(ctx context.Context, kv jetstream.KeyValue) (err error) {
		next, err = kv.Update(ctx, id, data, rev)
		return err
	})
	switch {
	case wrongRevision(err):
		return 0, fmt.Errorf("%q: %w", id, ErrConflict)
	case err != nil:
		return 0, fmt.Errorf("update pipeline %q: %w", id, err)
	}
	return next, nil
}

// Delete removes the record that has revision rev, or returns ErrConflict.
func (r *Registry) Delete(ctx context.Context, id string, rev uint64) error {
	err := r.write(ctx, r.pipelines, func(ctx context.Context, kv jetstream.KeyValue) error {
		return kv.Delete(ctx, id, jetstream.LastRevision(rev))
	})
	switch {
	case wrongRevision(err):
		return fmt.Errorf("%q: %w", id, ErrConflict)
	case err != nil:
		return fmt.Errorf("delete pipeline %q: %w", id, err)
	}
	return nil
}

// List returns all records by id.
func (r *Registry) List(ctx context.Context) ([]*controlv1.PipelineRecord, error) {
	picture, err := r.picture(ctx)
	if err != nil {
		return nil, fmt.Errorf("list pipelines: %w", err)
	}
	records := make([]*controlv1.PipelineRecord, 0, len(picture))
	for _, kept := range picture {
		records = append(records, kept.record)
	}
	slices.SortFunc(records, func(a, b *controlv1.PipelineRecord) int {
		return strings.Compare(a.GetSpec().GetId(), b.GetSpec().GetId())
	})
	return records, nil
}

// kept is a record as the bucket has it.
type kept struct {
	record   *controlv1.PipelineRecord
	revision uint64
}

func (r *Registry) picture(ctx context.Context) (map[string]kept, error) {
	var picture map[string]kept
	err := r.read(ctx, r.pipelines, func(ctx context.Context, kv jetstream.KeyValue) error {
		found, err := entries(ctx, kv, jetstream.AllKeys)
		if err != nil {
			return err
		}
		picture = make(map[string]kept, len(found))
		for _, entry := range found {
			rec, err := decode(entry)
			if err != nil {
				return err
			}
			picture[entry.Key()] = kept{rec, entry.Revision()}
		}
		return nil
	})
	if errors.Is(err, errGone) {
		return map[string]kept{}, nil
	}
	return picture, err
}

func decode(entry jetstream.KeyValueEntry) (*controlv1.PipelineRecord, error) {
	rec := &controlv1.PipelineRecord{}
	if err := proto.Unmarshal(entry.Value(), rec); err != nil {
		return nil, fmt.Errorf("record of pipeline %q, revision %d: %w", entry.Key(), entry.Revision(), err)
	}
	return rec, nil
}

// wrongRevision tells a compare-and-set that failed: 10071, and 10164 of a replicated stream that
// has another write to the key in flight.
func wrongRevision(err error) bool {
	var api *jetstream.APIError
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == 10164)
}
