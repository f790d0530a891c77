package sink

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/ledger"
)

// deliver brings one block to where it belongs: its rows into the table, what the table refuses into
// the dead-letter log.
func (l *lane) deliver(ctx, working context.Context, b *filled) (err error) {
	if err := l.suspectStill(working); err != nil {
		return err
	}
	if b.anew {
		return l.beginAnew(working, b.taken, b.abandoned)
	}
	began, refused, token, epoch := time.Now(), uint64(0), "", l.epoch
	working, spans := l.beginSpans(working, b)
	l.unit.Working(working)
	defer l.unit.Working(ctx)
	defer func() { spans.end(b.rows.count, refused, b.plan.Bytes, time.Now(), err) }()
	if b.rows.count > 0 {
		stored := l.pos.stored.GetPending()
		// What is stored may still be the block before: its advance comes with this one's guard.
		repeated := b.recovered || stored.GetFirstSequence() == b.plan.First && stored.GetEpoch() == epoch // sequences begin with 1
		if b.recovered {
			epoch = stored.GetEpoch()
		}
		records, content := b.taken.since(l.taken), b.rows.identity.value()
		s := sending{
			lane: l, ctx: ctx, working: working, spans: spans, name: l.name(epoch, b.plan.First, b.plan.Last, content), layout: b.rows.layout, groups: b.rows.done(),
			pending: &eventv1.PendingBlock{
				FirstSequence: b.plan.First, LastSequence: b.plan.Last, Rows: uint64(b.rows.count),
				SchemaRevision: b.plan.Revision, LastTimeNs: b.plan.LastStored.UnixNano(),
				Epoch: epoch, Taken: records.taken, Positions: records.positions, Content: content,
				MadeNs: records.made, Joined: joinedSince(b.joined, l.joined),
			},
		}
		l.letters.locator.origin = l.origin()
		if b.recovered {
			l.letters.locator.origin.upTo = &b.taken
		}
		if l.ledger != nil {
			s.settled = ledger.New(l.ledger.Hash())
		}
		if repeated {
			if was := stored.GetContent(); was != 0 && was != content && !b.recovered {
				return fmt.Errorf("messages %d to %d of %s hold other rows than were to be inserted before the restart: the log is not what it was",
					b.plan.First, b.plan.Last, l.upstream.Stream())
			}
			s.pending, s.repeated = proto.CloneOf(stored), true
			s.name.Content = stored.GetContent() // as it was sent
			if err := s.resume(); err != nil {
				return err
			}
			if l.suspicion == nil && s.name.Content != 0 && s.name.Token() == l.delivered {
				// The server had answered the one who sent it, who died before the position said so. The table may have forgotten the token since.
				s.skip(b.rows.count)
			}
		}
		// Durable step 1: the range, and with it the advance over the block before: sending.guard. A crash after this
		// sends exactly this range again.
		// Durable step 2: the rows. A crash after this inserts them again under the same tokens.
		// Durable step 3, if the table refuses rows: how the block is taken apart, before it is: sending.decide. A crash
		// after this takes it apart the same way.
		// Durable step 4, if so: the dead letters. A crash after this finds them in their log.
		if l.suspicion != nil {
			l.suspicion.begin()
		}
		for _, g := range s.groups {
			if err := s.group(g); err != nil {
				return err
			}
		}
		if err := s.enter(); err != nil {
			return err
		}
		if s.refused > 0 {
			l.letters.close()
		}
		l.settleSuspicion(&s, b.plan.First)
		fresh := uint64(b.rows.count) - s.counted()
		l.tally.Records += fresh
		l.tally.Rows += fresh - s.refused
		l.tally.DeadLetters += s.refused
		refused, token = s.refused, s.name.Token()
		l.metrics.block(ctx, l.record.GetSpec().GetId(), b, int(refused), began, time.Now())
	}
	l.receipt(working, b, epoch, refused, began, time.Now(), token)
	if token != "" {
		l.testify(&eventv1.Receipt{
			FirstSequence: b.plan.First, LastSequence: b.plan.Last, LastTimeNs: b.plan.LastStored.UnixNano(), Epoch: epoch, Token: token,
			Refused: refused,
		})
	}
	// Durable step 5 follows with the next block or by itself: the advance.
	l.taken, l.moved = b.taken, true
	if b.again > 0 {
		healed := &eventv1.Healing{}
		proto.Merge(healed, l.healed)
		healed.Rows += b.again
		l.healed = healed
	}
	if b.joined != nil {
		l.joined = b.joined
	}
	if !b.recovered {
		l.covered, l.coveredTime = b.plan.Last, b.plan.LastStored.UnixNano()
		l.mark()
	}
	l.report(b.behind)
	return nil
}
