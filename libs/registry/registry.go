// Package registry keeps the pipelines and the condition of their units in NATS.
//
// Guaranteed: a record changes only by compare-and-set on its revision, so no writer overwrites what
// it has not seen; Watch delivers the whole picture at the start and after each change, through
// restarts of NATS and lost connections, and misses no last state.
//
// Not guaranteed: that statuses are kept. Their bucket is in memory and may vanish with a restart of
// NATS; their owners write them anew, and whoever reads them must do with what is there. Nor does
// Watch show every state in between, only the last.
package registry

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Names of the buckets.
const (
	PipelinesBucket = "sluice_pipelines"
	StatusBucket    = "sluice_status"
)

var (
	// ErrNotFound says that there is no record of that id.
	ErrNotFound = errors.New("no such pipeline")
	// ErrExists says that there already is a record of that id.
	ErrExists = errors.New("pipeline exists")
	// ErrConflict says that the record has changed since it was read.
	ErrConflict = errors.New("pipeline was changed by someone else")
)

const (
	// attempt bounds one exchange with NATS: while it restarts, requests get no answer at all.
	attempt = 3 * time.Second
	// openRetry is the pause between attempts to find JetStream.
	openRetry = 250 * time.Millisecond
)

// Registry is the pipelines and statuses. It is safe for concurrent use and keeps nothing open.
type Registry struct {
	js        jetstream.JetStream
	pipelines *bucket
	status    *bucket
}

// bucket is a bucket and its handle, which is kept: opening one costs a request.
type bucket struct {
	config jetstream.KeyValueConfig
	handle atomic.Pointer[jetstream.KeyValue]
}

// Open waits until JetStream answers and makes the buckets that are missing. It fails only when ctx
// ends; the error then says what JetStream answered last.
func Open(ctx context.Context, js jetstream.JetStream) (*Registry, error) {
	r := &Registry{
		js: js,
		pipelines: &bucket{config: jetstream.KeyValueConfig{
			Bucket:      PipelinesBucket,
			Description: "Sluice: pipelines",
			Storage:     jetstream.FileStorage,
			History:     1,
		}},
		status: &bucket{config: jetstream.KeyValueConfig{
			Bucket:      StatusBucket,
			Description: "Sluice: condition of the units of the pipelines",
			Storage:     jetstream.MemoryStorage,
			History:     1,
		}},
	}
	for {
		err := r.make(ctx, r.pipelines)
		if err == nil {
			err = r.make(ctx, r.status)
		}
		if err == nil {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("open registry: %w: %w", context.Cause(ctx), err)
		case <-time.After(openRetry):
		}
	}
}

// make makes a bucket if it is missing. One that is there stays as it is, also when an administrator
// gave it other replicas or limits.
func (r *Registry) make(ctx context.Context, b *bucket) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	kv, err := r.js.CreateKeyValue(ctx, b.config)
	if errors.Is(err, jetstream.ErrBucketExists) {
		kv, err = r.js.KeyValue(ctx, b.config.Bucket)
	}
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", b.config.Bucket, err)
	}
	b.handle.Store(&kv)
	return nil
}

// write runs op on a bucket; when the bucket is missing, it is made and op is run once more.
func (r *Registry) write(ctx context.Context, b *bucket, op func(context.Context, jetstream.KeyValue) error) error {
	err := once(ctx, b, op)
	if !missing(err) {
		return err
	}
	if made := r.make(ctx, b); made != nil {
		return errors.Join(err, made)
	}
	return once(ctx, b, op)
}

// errGone says that JetStream answers and has no such bucket.
var errGone = errors.New("no such bucket")

// read runs op on a bucket and returns errGone when that is missing. It does not make it: a bucket
// that is made while the server still removes the old one comes up with the old one's messages.
func (r *Registry) read(ctx context.Context, b *bucket, op func(context.Context, jetstream.KeyValue) error) error {
	err := once(ctx, b, op)
	if !missing(err) {
		return err
	}
	// No responders may also mean that JetStream is not up yet; only a lookup tells.
	switch lookup := r.lookUp(ctx, b); {
	case errors.Is(lookup, jetstream.ErrBucketNotFound):
		return fmt.Errorf("%s: %w", b.config.Bucket, errGone)
	case lookup != nil: // what is away now, not what it said before
		return fmt.Errorf("look for bucket %s: %w", b.config.Bucket, lookup)
	}
	return once(ctx, b, op) // it has been made meanwhile
}

func (r *Registry) lookUp(ctx context.Context, b *bucket) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	_, err := r.js.KeyValue(ctx, b.config.Bucket)
	return err
}

func once(ctx context.Context, b *bucket, op func(context.Context, jetstream.KeyValue) error) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	return op(ctx, *b.handle.Load())
}

// missing tells errors that a missing bucket gives, depending on the request.
func missing(err error) bool {
	return errors.Is(err, jetstream.ErrBucketNotFound) ||
		errors.Is(err, jetstream.ErrStreamNotFound) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, nats.ErrStreamNotFound) ||
		errors.Is(err, nats.ErrNoResponders)
}

// entries returns the live entries of a bucket whose keys match the filter.
func entries(ctx context.Context, kv jetstream.KeyValue, filter string) ([]jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := kv.Watch(ctx, filter, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kv.Bucket(), err)
	}
	defer stop(w)
	var found []jetstream.KeyValueEntry
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("list %s: %w", kv.Bucket(), context.Cause(ctx))
		case entry, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("list %s: %w", kv.Bucket(), nats.ErrDisconnected)
			case entry == nil: // all that was there at the start has come
				return found, nil
			}
			found = append(found, entry)
		}
	}
}

// stop ends a watcher and takes what it still sends, so that it is not left blocked in sending.
func stop(w jetstream.KeyWatcher) {
	_ = w.Stop() // the only error is that it has ended already
	for range w.Updates() {
	}
}
