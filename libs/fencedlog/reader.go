package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Reading ahead is bounded in bytes: a consumer that is sent more than the client's pending limit
// (64 MB) would silently lose messages.
const (
	readAheadMessages = 256
	readAheadBytes    = 16 << 20
)

// Message is a message of a lane.
type Message struct {
	Sequence uint64
	Time     time.Time // when the server stored it
	Writer   string
	Position string
	Data     []byte
	Pending  uint64 // messages of the lane after this one, when it was sent
}

// Reader reads one lane of a log in the log's order.
type Reader struct {
	log  Log
	iter jetstream.MessagesContext
}

// ErrPurged says that messages were removed that the reader has not read.
var ErrPurged = errors.New("the log was purged beyond the reader's position")

// OpenReader reads a lane from the stream sequence from on. Positions of readers live in their own
// checkpoints, so the consumer is ephemeral and unacknowledged.
func OpenReader(ctx context.Context, js jetstream.JetStream, log Log, lane int, from uint64) (*Reader, error) {
	from = max(from, 1)
	stream, err := js.Stream(ctx, log.Stream())
	if err != nil {
		return nil, fmt.Errorf("read lane %d of %s: %w", lane, log.Stream(), err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read lane %d of %s: %w", lane, log.Stream(), err)
	}
	if info.State.FirstSeq > from {
		return nil, fmt.Errorf("read lane %d of %s: %w: wanted %d, it begins at %d", lane, log.Stream(), ErrPurged, from, info.State.FirstSeq)
	}
	consumer, err := js.OrderedConsumer(ctx, log.Stream(), jetstream.OrderedConsumerConfig{
		FilterSubjects:    []string{log.LaneFilter(lane)},
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("read lane %d of %s: %w", lane, log.Stream(), err)
	}
	iter, err := consumer.Messages(
		jetstream.PullMaxMessagesWithBytesLimit(readAheadMessages, readAheadBytes),
		jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return nil, fmt.Errorf("read lane %d of %s: %w", lane, log.Stream(), err)
	}
	return &Reader{log: log, iter: iter}, nil
}

// Next returns the lane's next message; it waits for one until ctx ends. A reader whose Next fails
// for another reason than ctx is to be opened anew.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	msg, err := r.iter.Next(jetstream.NextContext(ctx))
	if err != nil {
		if ctx.Err() != nil {
			return Message{}, context.Cause(ctx)
		}
		return Message{}, fmt.Errorf("read %s: %w", r.log.Stream(), err)
	}
	meta, err := msg.Metadata()
	if err != nil {
		return Message{}, fmt.Errorf("read %s: %w", r.log.Stream(), err)
	}
	_, writer, _ := r.log.laneOf(msg.Subject())
	return Message{
		Sequence: meta.Sequence.Stream,
		Time:     meta.Timestamp,
		Writer:   writer,
		Position: msg.Headers().Get(positionHeader),
		Data:     msg.Data(),
		Pending:  meta.NumPending,
	}, nil
}

// Close ends the reader.
func (r *Reader) Close() { r.iter.Stop() }
