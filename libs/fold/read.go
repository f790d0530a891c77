package fold

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

// read hands on the lane's messages after a given one, until ctx ends. A log that cannot be read is
// waited for; one that was purged beyond what the lane has read is lost.
func (l *lane) read(ctx context.Context, after fencedlog.Mark, messages chan<- fencedlog.Message) error {
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		last, err := l.readOn(ctx, after, messages)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, fencedlog.ErrPurged) {
			return err
		}
		if last != after {
			backoff = firstBackoff
		}
		after = last
		l.waiting(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
	}
}

// readOn reads until it fails, and returns the last message that it has handed on.
func (l *lane) readOn(ctx context.Context, after fencedlog.Mark, messages chan<- fencedlog.Message) (fencedlog.Mark, error) {
	r, err := fencedlog.OpenReaderAfter(ctx, l.JS, l.Input, l.Lane, after)
	if err != nil {
		return after, err
	}
	defer r.Close()
	l.waiting(nil)
	for {
		m, err := r.Next(ctx)
		if err != nil {
			return after, err
		}
		select {
		case messages <- m:
			after = fencedlog.Mark{Sequence: m.Sequence, Time: m.Time}
		case <-ctx.Done():
			return after, nil
		}
	}
}

// idleGap is how far the log must have run ahead of an idle lane before that moves on without
// messages of its own.
const idleGap = 64

// end returns the log's end, if the lane has no message after covered: then it may move on to there.
// Without that a lane without events would keep the whole log from being purged.
func (l *lane) end(ctx context.Context, covered uint64) (fencedlog.Mark, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Interval)
	defer cancel()
	none := fencedlog.Mark{}
	stream, err := l.JS.Stream(ctx, l.Input.Stream())
	if err != nil {
		return none, fmt.Errorf("look at %s: %w", l.Input.Stream(), err)
	}
	// The order matters: the end first, then the lane's last message. What comes later is behind the end.
	end := stream.CachedInfo().State.LastSeq
	if end < covered+idleGap {
		return none, nil
	}
	last, err := stream.GetLastMsgForSubject(ctx, l.Input.LaneFilter(l.Lane))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return none, fmt.Errorf("look at lane %d of %s: %w", l.Lane, l.Input.Stream(), err)
	case last.Sequence > covered:
		return none, nil // not idle, only behind
	}
	msg, err := stream.GetMsg(ctx, end)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return none, nil // a fence that was replaced this moment; next time
	}
	if err != nil {
		return none, fmt.Errorf("look at the end of %s: %w", l.Input.Stream(), err)
	}
	return fencedlog.Mark{Sequence: end, Time: msg.Time}, nil
}
