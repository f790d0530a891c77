package natstest

import (
	"context"
	"errors"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Steps is a JetStream that does its worst to one durable step: a message that is published, a write to a bucket; with Purges, a purge of a stream as
// well. Which one it is, At says, counted from 0. Without Done it does not happen; it is reported as failed either way. All other steps happen as they should.
type Steps struct {
	jetstream.JetStream
	At   int64
	Done bool
	// Purges of streams come when it is time for one, and harm nobody but whom a test is about.
	Purges bool
	Crash  func() // told of the step before it is reported; nil: nobody
	taken  atomic.Int64
}

// Taken is how many steps there were.
func (s *Steps) Taken() int64 { return s.taken.Load() }

func (s *Steps) step(do func() error) error {
	if s.taken.Add(1)-1 != s.At {
		return do()
	}
	if s.Done {
		if err := do(); err != nil {
			return err
		}
	}
	if s.Crash != nil {
		s.Crash()
	}
	return errors.New("injected")
}

func (s *Steps) number(do func() (uint64, error)) (n uint64, err error) {
	err = s.step(func() (err error) {
		n, err = do()
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// PublishMsg is a step.
func (s *Steps) PublishMsg(ctx context.Context, msg *natsgo.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	err = s.step(func() (err error) {
		ack, err = s.JetStream.PublishMsg(ctx, msg, opts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return ack, nil
}

// KeyValue gives a bucket whose writes are steps.
func (s *Steps) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := s.JetStream.KeyValue(ctx, bucket)
	return steppedBucket{kv, s}, err
}

// CreateKeyValue gives a bucket whose writes are steps.
func (s *Steps) CreateKeyValue(ctx context.Context, config jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := s.JetStream.CreateKeyValue(ctx, config)
	return steppedBucket{kv, s}, err
}

// Stream gives a stream whose purges are steps.
func (s *Steps) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	stream, err := s.JetStream.Stream(ctx, name)
	return steppedStream{stream, s}, err
}

type steppedBucket struct {
	jetstream.KeyValue
	s *Steps
}

func (b steppedBucket) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	return b.s.number(func() (uint64, error) { return b.KeyValue.Create(ctx, key, value, opts...) })
}

func (b steppedBucket) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	return b.s.number(func() (uint64, error) { return b.KeyValue.Update(ctx, key, value, revision) })
}

func (b steppedBucket) Purge(ctx context.Context, key string, opts ...jetstream.KVDeleteOpt) error {
	return b.s.step(func() error { return b.KeyValue.Purge(ctx, key, opts...) })
}

type steppedStream struct {
	jetstream.Stream
	s *Steps
}

func (s steppedStream) Purge(ctx context.Context, opts ...jetstream.StreamPurgeOpt) error {
	if !s.s.Purges {
		return s.Stream.Purge(ctx, opts...)
	}
	return s.s.step(func() error { return s.Stream.Purge(ctx, opts...) })
}
