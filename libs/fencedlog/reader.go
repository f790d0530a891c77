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
	// heartbeat is how often the server says that it still feeds a reader for whom it has nothing.
	heartbeat = time.Second
	// verifyInterval is how often an idle reader looks whether the log is what it was. It is longer than two heartbeats: the
	// client only misses them within one wait, and only then asks for another consumer. The server forgets, without a
	// word, the one of a reader that pauses for longer than InactiveThreshold.
	verifyInterval = 3 * heartbeat
)

// Message is a message of a lane.
type Message struct {
	Sequence uint64
	Time     time.Time // when the server stored it
	Writer   string
	Position string
	Link     Link
	Data     []byte
	Pending  uint64 // messages of the lane after this one, when it was sent
}

// Reader reads one lane of a log in the log's order. It is not for concurrent use.
//
// It notices when the log loses its tail while it reads, also when the log has grown again since: it
// then fails instead of waiting for a sequence that other messages have taken.
type Reader struct {
	js       jetstream.JetStream
	log      Log
	iter     jetstream.MessagesContext
	consumer string // the server's name of what feeds us; another one after every interruption
	sequence uint64 // of the last message; 0 before the first
	at       time.Time
	// unverified came after an interruption, and before Next had found out what that did to the log.
	unverified jetstream.Msg
}

// Mark is a message of a log: its sequence, and when the server stored it. The two together tell it from another that was given
// its sequence after the log had lost its tail.
type Mark struct {
	Sequence uint64 // 0: none
	Time     time.Time
}

// ErrPurged says that messages were removed that the reader has not read.
var ErrPurged = errors.New("the log was purged beyond the reader's position")

// OpenReaderAfter reads what comes after the message last, and notices if that is not the one that the log had there.
func OpenReaderAfter(ctx context.Context, js jetstream.JetStream, log Log, lane int, last Mark) (*Reader, error) {
	r, err := OpenReader(ctx, js, log, lane, last.Sequence+1)
	if err != nil {
		return nil, err
	}
	r.sequence, r.at = last.Sequence, last.Time // Next verifies it before the first message
	return r, nil
}

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
		return nil, fmt.Errorf("read lane %d of %s: %w: wanted %d, it begins at %d. If that stays so, the state was put back to before what the log keeps: put a later copy back, or let Kafka be read again (docs/power-loss.md)", lane, log.Stream(), ErrPurged, from, info.State.FirstSeq)
	}
	if info.State.LastSeq+1 < from {
		return nil, &tailLostError{fmt.Errorf("read lane %d of %s: %w: wanted %d, it ends at %d", lane, log.Stream(), ErrTailLost, from, info.State.LastSeq)}
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
		jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return nil, fmt.Errorf("read lane %d of %s: %w", lane, log.Stream(), err)
	}
	return &Reader{js: js, log: log, iter: iter}, nil
}

// Next returns the lane's next message; it waits for one until ctx ends. A reader whose Next fails
// for another reason than ctx is to be opened anew, but for ErrPurged, which a lost tail is, too.
func (r *Reader) Next(ctx context.Context) (Message, error) {
	msg, err := r.wait(ctx)
	if err != nil {
		return Message{}, err
	}
	meta, err := msg.Metadata()
	if err != nil {
		return Message{}, fmt.Errorf("read %s: %w", r.log.Stream(), err)
	}
	for meta.Consumer != r.consumer {
		switch err := r.verify(ctx); {
		case err == nil:
			r.consumer = meta.Consumer
			continue
		case errors.Is(err, ErrTailLost):
			return Message{}, err
		}
		// Not known yet. Whoever opened a new reader instead would never know.
		select {
		case <-ctx.Done():
			r.unverified = msg
			return Message{}, context.Cause(ctx)
		case <-time.After(firstBackoff):
		}
	}
	r.sequence, r.at = meta.Sequence.Stream, meta.Timestamp
	writer, _ := r.log.writerOf(msg.Subject())
	return Message{
		Sequence: meta.Sequence.Stream,
		Time:     meta.Timestamp,
		Writer:   writer,
		Position: msg.Headers().Get(positionHeader),
		Link:     linkOf(msg.Headers()),
		Data:     msg.Data(),
		Pending:  meta.NumPending,
	}, nil
}

// wait waits for a message. While there is none it looks from time to time whether what was read is
// still there: after a lost tail there may be none for long.
func (r *Reader) wait(ctx context.Context) (jetstream.Msg, error) {
	if msg := r.unverified; msg != nil {
		r.unverified = nil
		return msg, nil
	}
	for {
		waitCtx, cancel := context.WithTimeout(ctx, verifyInterval)
		msg, err := r.iter.Next(jetstream.NextContext(waitCtx))
		idle := waitCtx.Err() != nil
		cancel()
		switch {
		case err == nil:
			return msg, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !idle:
			return nil, fmt.Errorf("read %s: %w", r.log.Stream(), err)
		}
		// A server that does not answer is waited for.
		if err := r.verify(ctx); errors.Is(err, ErrTailLost) {
			return nil, err
		}
	}
}

// verify makes sure that the last message is still the one that was read.
func (r *Reader) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	err := Verify(ctx, r.js, r.log, r.sequence, r.at)
	if errors.Is(err, ErrTailLost) {
		return &tailLostError{err}
	}
	return err
}

// tailLostError is an ErrTailLost that is an ErrPurged, too: reading on is of no use.
type tailLostError struct{ error }

func (e *tailLostError) Unwrap() error { return e.error }

func (e *tailLostError) Is(target error) bool { return target == ErrPurged }

// Close ends the reader.
func (r *Reader) Close() { r.iter.Stop() }
