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
	behind uint64 // messages of the lane behind the block, as far as was known when its last one was read
}

// collector reads a lane's messages into blocks. It runs beside the sender: while a block is sent the next is collected.
type collector struct {
	lane    *lane
	next    uint64 // sequence to read from
	reader  *fencedlog.Reader
	view    batch.View
	rows    *assembler
	plan    *block.Plan
	pending *eventv1.PendingBlock // the range to be sent again first; nil: none (any more)
	behind  uint64
}

func (l *lane) collect(ctx context.Context, from uint64, pending *eventv1.PendingBlock, free <-chan *assembler, blocks chan<- *filled) error {
	bounds := l.record.GetSpec().GetBatch()
	c := &collector{lane: l, next: from, pending: pending, plan: block.NewPlan(block.Bounds{
		Rows: int(bounds.GetRows()), Bytes: int(bounds.GetBytes()), MaxDelay: bounds.GetMaxDelay().AsDuration(),
	})}
	defer c.closeReader()
	if pending != nil {
		c.next = pending.GetFirstSequence()
	}
	for {
		if c.rows == nil {
			select {
			case c.rows = <-free:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
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
		select { // the message that did not fit begins the next block
		case c.rows = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
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
	if c.lane.ledger != nil {
		c.rows.complete()
	}
	select {
	case blocks <- &filled{plan: *c.plan, rows: c.rows, behind: c.behind}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.rows = nil
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
		reader, err := fencedlog.OpenReader(ctx, c.lane.js, c.lane.upstream, c.lane.index, c.next)
		if err != nil {
			return nil, err
		}
		c.reader = reader
		c.lane.trouble.reading(nil)
	}
	wait := ctx
	if !c.plan.Empty() && c.pending == nil {
		var cancel context.CancelFunc
		wait, cancel = context.WithDeadline(ctx, c.plan.Due())
		defer cancel()
	}
	msg, err := c.reader.Next(wait)
	if err != nil {
		if wait.Err() != nil && ctx.Err() == nil {
			return nil, nil
		}
		return nil, err
	}
	c.next, c.behind = msg.Sequence+1, msg.Pending
	return &msg, nil
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
	m := block.Message{Sequence: msg.Sequence, Stored: msg.Time, Revision: c.view.SchemaRevision, Rows: c.view.Selected}
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
