package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// Marks are where a lane looks for the last message that it shares with a log that has lost its tail. They only save reading: without
// one it reads the log from its first message, for what was taken is told by its records, not by its place.
const (
	markEvery = 5 * time.Second
	maxMarks  = 32
)

// The first mark of a lane whose records were all noted, from the beginning of the pipeline on, has sequence 0. A lane that an
// earlier version has begun lacks it, and cannot go back behind its first mark.
func tracked(marks []*eventv1.Mark) bool { return len(marks) > 0 && marks[0].GetSequence() == 0 }

// mark notes the message that is covered last, every so often.
func (l *lane) mark() {
	n := len(l.marks)
	if n > 0 && l.coveredTime-l.marks[n-1].GetTimeNs() < int64(markEvery) {
		return
	}
	keep := l.marks
	if n >= maxMarks {
		keep = keep[1:]
		if tracked(l.marks) {
			keep = append([]*eventv1.Mark{l.marks[0]}, l.marks[2:]...)
		}
	}
	// What is stored has the slice.
	l.marks = append(keep[:len(keep):len(keep)], &eventv1.Mark{Sequence: l.covered, TimeNs: l.coveredTime})
}

// verify makes sure that the log has what the position says of it. If it has lost its tail, the lane goes back to where it was the
// same, and its position says so before anything else is done.
func (l *lane) verify(ctx context.Context) error {
	lost := fencedlog.Verify(ctx, l.js, l.upstream, l.covered, time.Unix(0, l.coveredTime))
	pending := l.pos.stored.GetPending()
	if lost == nil && pending != nil && pending.GetEpoch() == l.epoch {
		lost = fencedlog.Verify(ctx, l.js, l.upstream, pending.GetLastSequence(), time.Unix(0, pending.GetLastTimeNs()))
	}
	if !errors.Is(lost, fencedlog.ErrTailLost) {
		return lost
	}
	if pending != nil {
		records := len(pending.GetTaken()) + len(pending.GetPositions())
		switch {
		case records == 0:
			return fmt.Errorf("%w; it cannot be healed, since the position does not say which records the block that was being inserted is made of", lost)
		case pending.GetPartTo() > 0 && records > 1:
			return fmt.Errorf("%w; it cannot be healed, since a block was being taken apart, whose rows would come in another order", lost)
		}
	}
	from, err := l.shared(ctx)
	if err != nil {
		return err
	}
	if from == nil {
		return fmt.Errorf("%w; it cannot be healed: no message is left from the time since when the lane notes its records", lost)
	}
	was := l.covered
	l.covered, l.coveredTime = from.GetSequence(), from.GetTimeNs()
	for len(l.marks) > 0 && l.marks[len(l.marks)-1].GetSequence() > l.covered {
		l.marks = l.marks[:len(l.marks)-1]
	}
	l.epoch++
	if err := l.widen(ctx); err != nil {
		return err
	}
	l.heal(fmt.Sprintf("%v: lane %d had it up to sequence %d, went back to %d and leaves out what was taken before", lost, l.index, was, l.covered))
	l.log.Warn("the log has lost its tail and is read again", "stream", l.upstream.Stream(), "covered", was, "from", l.covered, "error", lost)
	// A crash before this finds the same. A crash after it goes on from there: sequences of the new epoch.
	return l.write(ctx, l.pos.stored.GetPending())
}

// maxTold bounds what is told together of what was found since the lane was taken.
const maxTold = 3

// heal notes what was found and done. It stays in the status.
func (l *lane) heal(what string) {
	l.told = append(l.told, what)
	l.told = l.told[max(0, len(l.told)-maxTold):]
	what = strings.Join(l.told, "; ")
	next := proto.CloneOf(l.healed)
	if next == nil {
		next = &eventv1.Healing{}
	}
	next.What, next.Ms = strings.ToValidUTF8(what, "\uFFFD"), time.Now().UnixMilli()
	l.healed = next
	l.trouble.healing(next)
}

// shared is the last message that the lane had and that is still the one it was; nil if there is none. Of a lane that has noted
// all its records it may be the one before the log's first.
func (l *lane) shared(ctx context.Context) (*eventv1.Mark, error) {
	stream, err := l.js.Stream(ctx, l.upstream.Stream())
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", l.upstream.Stream(), err)
	}
	candidates := append(l.marks[:len(l.marks):len(l.marks)], &eventv1.Mark{Sequence: l.covered, TimeNs: l.coveredTime})
	for i := len(candidates) - 1; i >= 0; i-- {
		m := candidates[i]
		if m.GetSequence() == 0 {
			continue
		}
		msg, err := stream.GetMsg(ctx, m.GetSequence())
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return nil, fmt.Errorf("look at sequence %d of %s: %w", m.GetSequence(), l.upstream.Stream(), err)
		case msg.Time.UnixNano() == m.GetTimeNs():
			return m, nil
		}
	}
	if !tracked(l.marks) {
		return nil, nil
	}
	return &eventv1.Mark{Sequence: stream.CachedInfo().State.FirstSeq - 1}, nil
}
