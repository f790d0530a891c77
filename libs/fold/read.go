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

const (
	// idleGap is how far the log must have run ahead of an idle lane before that moves on without
	// messages of its own, at once.
	idleGap = 64
	// idleTurns is after how many checkpoint intervals it moves on in any case: a log of few large messages may be full long before.
	idleTurns = 6
)

// end returns the log's end, if the lane has no message after covered: then it may move on to there.
// Without that a lane without events would keep the whole log from being purged.
func (l *lane) end(ctx context.Context, covered fencedlog.Mark, due bool) (fencedlog.Mark, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Interval)
	defer cancel()
	none := fencedlog.Mark{}
	stream, err := l.JS.Stream(ctx, l.Input.Stream())
	if err != nil {
		return none, fmt.Errorf("look at %s: %w", l.Input.Stream(), err)
	}
	// The order matters: the end first, then the lane's last message. What comes later is behind the end.
	info := stream.CachedInfo()
	end := info.State.LastSeq
	filling := info.Config.MaxBytes > 0 && info.State.Bytes > uint64(info.Config.MaxBytes)/4
	if end <= covered.Sequence || end < covered.Sequence+idleGap && !due && !filling {
		return none, nil
	}
	last, err := fencedlog.LastOf(ctx, l.JS, l.Input, l.Lane)
	if err != nil || last > covered.Sequence {
		return none, err // not idle, only behind
	}
	msg, err := stream.GetMsg(ctx, end)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return none, nil // a fence that was replaced this moment; next time
	}
	if err != nil {
		return none, fmt.Errorf("look at the end of %s: %w", l.Input.Stream(), err)
	}
	// And then that the log is still the one that was read: else messages of the lane may have got numbers that it believes to have read.
	if err := fencedlog.Verify(ctx, l.JS, l.Input, covered.Sequence, covered.Time); err != nil {
		return none, err
	}
	return fencedlog.Mark{Sequence: end, Time: msg.Time}, nil
}
