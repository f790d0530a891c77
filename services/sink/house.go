package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/spec"
)

// keepHouse moves an idle lane on, so that it does not hold back the purge, and purges the upstream log. The
// latter is the first lane's task.
func (l *lane) keepHouse(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, houseInterval)
	defer cancel()
	if err := l.moveOn(ctx); err != nil {
		return err
	}
	if l.index != spec.CurrentLanes(l.record).First {
		return nil
	}
	return l.purge(ctx)
}

// rest is what a lane does that the pipeline has no more, until its owner hears of that.
func (l *lane) rest(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case reply := <-l.unit.Checkpoints():
			reply <- nil
		}
	}
}

// begin moves a lane that has read nothing, of a set that has replaced another, to where the log begins: nothing of it is purged before it has a position.
func (l *lane) begin(ctx context.Context) error {
	if l.covered > 0 || l.pos.stored.GetPending() != nil || spec.CurrentLanes(l.record).First == 0 {
		return nil
	}
	first, _, err := fencedlog.Bounds(ctx, l.js, l.upstream)
	if err != nil || first <= 1 {
		return err
	}
	l.covered = first - 1
	return nil
}

// moveOn covers the messages of other lanes that lie between this lane's last message and the log's end. Without it
// a lane that gets no events would pin the whole log.
func (l *lane) moveOn(ctx context.Context) error {
	if l.pos.stored.GetPending() != nil && !l.moved {
		return nil // not idle: a block is to be sent again, even if its messages are not back yet
	}
	stream, err := l.js.Stream(ctx, l.upstream.Stream())
	if err != nil {
		return fmt.Errorf("look at %s: %w", l.upstream.Stream(), err)
	}
	// The order matters: the end first, the lane's last message then. What comes after lies behind the end.
	end := stream.CachedInfo().State.LastSeq
	if end <= l.covered {
		return nil
	}
	last, err := stream.GetLastMsgForSubject(ctx, l.upstream.LaneFilter(l.index))
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("look at lane %d of %s: %w", l.index, l.upstream.Stream(), err)
	}
	if err == nil && last.Sequence > l.covered {
		return nil // not idle, only behind
	}
	msg, err := stream.GetMsg(ctx, end)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil // purged this moment; next time
	}
	if err != nil {
		return fmt.Errorf("look at the end of %s: %w", l.upstream.Stream(), err)
	}
	l.covered, l.coveredTime, l.moved = end, msg.Time.UnixNano(), true
	return l.advance(ctx)
}

// purge removes what all lanes have covered, durably, from the upstream log.
func (l *lane) purge(ctx context.Context) error {
	lowest := l.pos.stored.GetCoveredSequence()
	if lost, err := l.lostTo(ctx, l.pos.stored); lost || err != nil {
		return err
	}
	for _, lane := range spec.LiveLanes(l.record) {
		if lane == l.index {
			continue
		}
		entry, err := l.kv.Get(ctx, positionKey(lane))
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil // a lane that has not begun needs everything
		}
		if err != nil {
			return fmt.Errorf("read the position of lane %d: %w", lane, err)
		}
		var p eventv1.SinkPosition
		if err := proto.Unmarshal(entry.Value(), &p); err != nil {
			return fmt.Errorf("read the position of lane %d: %w", lane, err)
		}
		if p.GetClosed() {
			continue // of a set that another has replaced; the record may say so later than its position
		}
		if lost, err := l.lostTo(ctx, &p); lost || err != nil {
			return err
		}
		lowest = min(lowest, p.GetCoveredSequence())
	}
	if l.upstream.Stage == fencedlog.Join {
		// A join that heals from a loss of its own input reads in its log what it has put out since its last checkpoint.
		needed, err := checkpoint.Needed(ctx, l.js, l.upstream.Pipeline, l.upstream.Stage, spec.LiveLanes(l.record))
		if err != nil {
			return err
		}
		for lane, sequence := range needed {
			last, err := fencedlog.LastOf(ctx, l.js, l.upstream, lane)
			if err != nil {
				return err
			}
			if last > sequence {
				lowest = min(lowest, sequence+1)
			}
		}
	}
	// Asked after the positions: what other lanes get from now on lies behind all that these have read.
	if same, err := l.same(ctx); err != nil || !same {
		return err
	}
	// The message that is covered last stays: its time tells whether the log has lost its tail.
	return l.purger.Purge(ctx, l.js, l.upstream, lowest, time.Now())
}

// lostTo tells that the log has lost its tail and the lane of this position has not found out yet. What it has covered are then
// other messages than those that have the sequences now.
func (l *lane) lostTo(ctx context.Context, p *eventv1.SinkPosition) (bool, error) {
	err := fencedlog.Verify(ctx, l.js, l.upstream, p.GetCoveredSequence(), time.Unix(0, p.GetCoveredTimeNs()))
	if errors.Is(err, fencedlog.ErrTailLost) {
		return true, nil
	}
	return false, err
}
