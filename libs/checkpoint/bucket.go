package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

var (
	errNoKey    = errors.New("no such key")
	errRevision = errors.New("the key has another revision")
)

// bucket is what the checkpoint needs of a key-value bucket. Tests put faults in between.
type bucket interface {
	// get returns errNoKey when there is none. It may be behind what was written.
	get(ctx context.Context, key string) ([]byte, uint64, error)
	// put writes the key if its revision is the given one, 0 meaning that there is no such key;
	// else it returns errRevision. Any other error leaves open whether it was written.
	put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	remove(ctx context.Context, key string) error
	// list returns the keys that are there, in no order.
	list(ctx context.Context, prefix string) ([]string, error)
}

// kv is the bucket in JetStream.
type kv struct {
	name   string
	values jetstream.KeyValue
	stream jetstream.Stream
}

func openBucket(ctx context.Context, js jetstream.JetStream, name string) (bucket, error) {
	values, err := js.KeyValue(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	stream, err := js.Stream(ctx, "KV_"+name)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	return &kv{name: name, values: values, stream: stream}, nil
}

func (b *kv) subject(key string) string { return "$KV." + b.name + "." + key }

func (b *kv) get(ctx context.Context, key string) ([]byte, uint64, error) {
	e, err := b.values.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, errNoKey
	}
	if err != nil {
		return nil, 0, err
	}
	return e.Value(), e.Revision(), nil
}

func (b *kv) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	at, err := b.values.Update(ctx, key, value, revision)
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamWrongLastSequence,
			jetstream.JSErrCodeStreamWrongLastSequenceConstant: // of a replicated stream: a write is on its way
			return 0, errRevision
		}
	}
	return at, err
}

// remove purges the key from the stream. Deleting it the usual way would leave a marker behind for
// ever, and segments have a new key each.
func (b *kv) remove(ctx context.Context, key string) error {
	return b.stream.Purge(ctx, jetstream.WithPurgeSubject(b.subject(key)))
}

func (b *kv) list(ctx context.Context, prefix string) ([]string, error) {
	info, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(b.subject(prefix+">")))
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		keys = append(keys, strings.TrimPrefix(subject, b.subject("")))
	}
	return keys, nil
}
