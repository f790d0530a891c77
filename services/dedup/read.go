package dedup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"sluice/libs/fencedlog"
)

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// read hands on the lane's messages from a sequence on, until ctx ends. A log that cannot be read is
// waited for; one that was purged beyond what the lane has read is lost.
func (l *lane) read(ctx context.Context, from uint64, messages chan<- fencedlog.Message) error {
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		next, err := l.readOn(ctx, from, messages)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, fencedlog.ErrPurged) {
			return err
		}
		if next != from {
			backoff = firstBackoff
		}
		from = next
		l.waiting(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
	}
}

// readOn reads until it fails, and returns where to go on.
func (l *lane) readOn(ctx context.Context, from uint64, messages chan<- fencedlog.Message) (uint64, error) {
	r, err := fencedlog.OpenReader(ctx, l.js, l.input, l.index, from)
	if err != nil {
		return from, err
	}
	defer r.Close()
	l.waiting(nil)
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return from, err
		}
		select {
		case messages <- m:
			from = m.Sequence + 1
		case <-ctx.Done():
			return from, nil
		}
	}
}

// end returns the log's end, if the lane has no message after covered: then it may move on to there.
// Without that a lane without events would keep the whole log from being purged.
func (l *lane) end(ctx context.Context, covered uint64) (sequence uint64, timeNS int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.interval)
	defer cancel()
	stream, err := l.js.Stream(ctx, l.input.Stream())
	if err != nil {
		return 0, 0, fmt.Errorf("look at %s: %w", l.input.Stream(), err)
	}
	// The order matters: the end first, then the lane's last message. What comes later is behind the end.
	end := stream.CachedInfo().State.LastSeq
	if end < covered+idleGap {
		return 0, 0, nil
	}
	last, err := stream.GetLastMsgForSubject(ctx, l.input.LaneFilter(l.index))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return 0, 0, fmt.Errorf("look at lane %d of %s: %w", l.index, l.input.Stream(), err)
	case last.Sequence > covered:
		return 0, 0, nil // not idle, only behind
	}
	msg, err := stream.GetMsg(ctx, end)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, 0, nil // a fence that was replaced this moment; next time
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look at the end of %s: %w", l.input.Stream(), err)
	}
	return end, msg.Time.UnixNano(), nil
}
