package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/services/sink/internal/block"
)

// filled is a block that is complete.
type filled struct {
	plan   block.Plan
	rows   *assembler
	behind uint64                    // messages of the lane behind the block, as far as was known when its last one was read
	taken  snapshot                  // when the block is in
	joined map[string]*eventv1.Taken // what the join had taken by then; nil: nothing is said of that
	again  uint64                    // rows that were left out, since they had been taken before
	sent   func()                    // tells the collector that the sender has done with the block
	// recovered: a block whose messages are lost. Its rows were found in others, so it covers nothing.
	recovered bool
	// anew: no block, but that the join puts out again what the lane has had; taken is from where on. abandoned: a block was in doubt, and is given up.
	anew, abandoned bool
}

// collector reads a lane's messages into blocks. It runs beside the sender: while a block is sent the next is collected.
type collector struct {
	lane    *lane
	free    <-chan *assembler
	after   fencedlog.Mark // the last message that was read
	reader  *fencedlog.Reader
	view    batch.View
	sieve   *sieve
	joined  *batch.Taken // see SinkPosition.joined
	rows    *assembler
	plan    *block.Plan
	pending *eventv1.PendingBlock // the range to be sent again first; nil: none (any more)
	behind  uint64
	again   uint64 // rows of the block that were left out
	origins bool   // see assembler
	// sending ends when the block that was handed on last is in the table; nil before the first.
	sending context.Context
}

func (l *lane) collect(ctx context.Context, start origin, pending *eventv1.PendingBlock, origins bool, free <-chan *assembler, blocks chan<- *filled) error {
	joined, err := batch.TakenOf(l.joined)
	if err != nil {
		return fmt.Errorf("the lane's position: %w", err)
	}
	c := &collector{lane: l, free: free, joined: joined, origins: origins}
	c.newPlan()
	defer c.closeReader()
	if pending != nil && pending.GetEpoch() != l.epoch {
		upTo := start.start.with(snapshot{pending.GetTaken(), pending.GetPositions(), pending.GetMadeNs()})
		broken, err := c.recover(ctx, start, upTo, pending, blocks)
		if err != nil {
			return err
		}
		c.closeReader()
		start.start, pending = upTo, nil
		if broken != nil {
			start.start = *broken
		}
	}
	if c.sieve, err = newSieve(l.upstream, start.start, nil); err != nil {
		return err
	}
	c.after, c.pending = start.after, pending
	for {
		if err := c.room(ctx); err != nil {
			return err
		}
		msg, err := c.read(ctx)
		switch {
		case err != nil:
			return err
		case msg == nil: // due
			if err := c.emit(ctx, blocks); err != nil {
				return err
			}
			continue
		}
		if err := c.follow(ctx, msg, blocks); err != nil {
			return err
		}
		taken, err := c.offer(msg)
		if err != nil {
			return err
		}
		if !taken || c.complete() {
			if err := c.emit(ctx, blocks); err != nil {
				return err
			}
		}
		if taken {
			continue
		}
		if err := c.room(ctx); err != nil { // the message that did not fit begins the next block
			return err
		}
		if _, err := c.offer(msg); err != nil {
			return err
		}
		if c.complete() {
			if err := c.emit(ctx, blocks); err != nil {
				return err
			}
		}
	}
}

// room waits for the memory of a block.
func (c *collector) room(ctx context.Context) error {
	if c.rows != nil {
		return nil
	}
	select {
	case c.rows = <-c.free:
		c.rows.origins = c.origins
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// newPlan plans blocks by the pipeline's bounds.
func (c *collector) newPlan() {
	bounds := c.lane.record.GetSpec().GetBatch()
	rows := int(bounds.GetRows())
	if c.origins {
		rows = min(rows, maxLooked)
	}
	c.plan = block.NewPlan(block.Bounds{Rows: rows, Bytes: int(bounds.GetBytes()), MaxDelay: bounds.GetMaxDelay().AsDuration()})
}

// follow makes sure that the message follows from what the lane has had. If it does not, the join puts that out again: the block that there is is sent, and the
// position says from where on rows may be in the table, before the message is taken.
func (c *collector) follow(ctx context.Context, msg *fencedlog.Message, blocks chan<- *filled) error {
	if c.pending != nil { // it was before the block was sent first
		return nil
	}
	broken, err := c.sieve.broken(msg)
	if err != nil {
		return fmt.Errorf("message %d of %s: %w", msg.Sequence, c.lane.upstream.Stream(), err)
	}
	if !broken {
		return nil
	}
	if !c.plan.Empty() {
		if err := c.emit(ctx, blocks); err != nil {
			return err
		}
	}
	if err := c.sieve.progress.goOnFrom(msg); err != nil {
		return err
	}
	if err := c.anew(ctx, &filled{taken: c.sieve.progress.snapshot()}, blocks); err != nil {
		return err
	}
	return c.room(ctx)
}

// anew has the sender write down that the join puts out again what was put out behind what b has taken, and waits until it has.
func (c *collector) anew(ctx context.Context, b *filled, blocks chan<- *filled) error {
	sending, sent := context.WithCancel(ctx)
	defer sent()
	b.anew, b.sent = true, sent
	select {
	case blocks <- b:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	<-sending.Done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.origins = true
	if c.rows != nil {
		c.rows.origins = true
	}
	c.newPlan()
	return nil
}

// complete tells whether the block is to be sent without waiting for more.
func (c *collector) complete() bool {
	if c.pending != nil {
		return c.plan.Last == c.pending.GetLastSequence()
	}
	return c.plan.Full()
}

func (c *collector) emit(ctx context.Context, blocks chan<- *filled) error {
	if p := c.pending; p != nil {
		if uint64(c.rows.count) != p.GetRows() || c.plan.Revision != p.GetSchemaRevision() {
			return fmt.Errorf("messages %d to %d of %s hold %d rows of schema revision %d, but %d of revision %d were to be inserted before the restart: the log is not what it was",
				p.GetFirstSequence(), p.GetLastSequence(), c.lane.upstream.Stream(), c.rows.count, c.plan.Revision, p.GetRows(), p.GetSchemaRevision())
		}
		c.pending = nil
	}
	b := &filled{plan: *c.plan, taken: c.sieve.progress.snapshot()}
	if c.sieve.progress.joined {
		b.joined = c.joined.Proto()
	}
	return c.hand(ctx, blocks, b)
}

// hand hands on a block of the rows that there are.
func (c *collector) hand(ctx context.Context, blocks chan<- *filled, b *filled) error {
	if c.lane.ledger != nil {
		c.rows.complete()
	}
	b.rows, b.behind, b.again = c.rows, c.behind, c.again
	sending, sent := context.WithCancel(ctx)
	b.sent = sent
	select {
	case blocks <- b:
	case <-ctx.Done():
		sent()
		return context.Cause(ctx)
	}
	c.sending = sending
	c.rows, c.again = nil, 0
	c.plan.Reset()
	return nil
}

// read returns the lane's next message, or nil when the block is due. It waits for NATS as long as it takes.
func (c *collector) read(ctx context.Context) (*fencedlog.Message, error) {
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		msg, err := c.attempt(ctx)
		if err == nil {
			return msg, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c.closeReader()
		if errors.Is(err, fencedlog.ErrPurged) {
			return nil, err
		}
		c.lane.trouble.reading(err)
		if err := sleep(ctx, backoff); err != nil {
			return nil, err
		}
	}
}

func (c *collector) attempt(ctx context.Context) (*fencedlog.Message, error) {
	if c.reader == nil {
		reader, err := fencedlog.OpenReaderAfter(ctx, c.lane.js, c.lane.upstream, c.lane.index, c.after)
		if err != nil {
			return nil, err
		}
		c.reader = reader
		c.lane.trouble.reading(nil)
	}
	msg, due, err := c.next(ctx)
	if due || err != nil {
		return nil, err
	}
	c.after, c.behind = fencedlog.Mark{Sequence: msg.Sequence, Time: msg.Time}, msg.Pending
	return &msg, nil
}

// next waits for a message until the block is due, and beyond that for as long as the sender is not free to take the block: what
// comes meanwhile travels with it, instead of waiting for a block of its own behind it.
func (c *collector) next(ctx context.Context) (msg fencedlog.Message, due bool, err error) {
	if c.plan.Empty() || c.pending != nil {
		msg, err = c.reader.Next(ctx)
		return msg, false, err
	}
	wait, cancel := context.WithDeadline(ctx, c.plan.Due())
	defer cancel()
	if msg, err = c.reader.Next(wait); err == nil || wait.Err() == nil || ctx.Err() != nil {
		return msg, false, err
	}
	if c.sending == nil || c.sending.Err() != nil {
		return msg, true, nil
	}
	if msg, err = c.reader.Next(c.sending); err == nil || c.sending.Err() == nil || ctx.Err() != nil {
		return msg, false, err
	}
	return msg, true, nil
}

// offer adds the message to the block unless it belongs to the next one.
func (c *collector) offer(msg *fencedlog.Message) (taken bool, err error) {
	fail := func(err error) error {
		return fmt.Errorf("message %d of %s: %w", msg.Sequence, c.lane.upstream.Stream(), err)
	}
	if c.pending != nil && msg.Sequence > c.pending.GetLastSequence() {
		return false, fail(fmt.Errorf("message %d, which ended the block being inserted before the restart, is gone", c.pending.GetLastSequence()))
	}
	if err := c.view.Parse(msg.Data); err != nil {
		return false, fail(err)
	}
	again, err := c.sieve.sift(msg, &c.view)
	if err != nil {
		return false, fail(err)
	}
	m := block.Message{Sequence: msg.Sequence, Stored: msg.Time, Revision: c.view.SchemaRevision, Rows: c.view.Selected, Behind: c.view.Behind}
	if m.Rows > 0 {
		m.Bytes = int(int64(c.view.ColumnsSize) * int64(m.Rows) / int64(c.view.Rows))
	}
	if c.pending == nil && !c.plan.Accepts(m) {
		return false, nil
	}
	if m.Rows > 0 {
		layout := c.lane.layouts[m.Revision]
		if layout == nil {
			return false, fail(fmt.Errorf("it is of schema revision %d, which the pipeline does not have (yet)", m.Revision))
		}
		if err := c.rows.add(&c.view, layout); err != nil {
			return false, fail(err)
		}
	}
	if err := c.sieve.progress.admit(msg, &c.view); err != nil {
		return false, fail(err)
	}
	if err := joinTook(c.joined, &c.view); err != nil {
		return false, fail(err)
	}
	c.again += uint64(again)
	now := time.Now()
	c.rows.note(msg, &c.view, now)
	c.plan.Add(m, now)
	return true, nil
}

func (c *collector) closeReader() {
	if c.reader != nil {
		c.reader.Close()
		c.reader = nil
	}
}
