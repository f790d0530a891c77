package sink

import (
	"context"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
	"sluice/services/sink/internal/block"
)

// recover finds the rows of a block that was being sent when the log lost its messages. They come again in others, and are told by
// where they come from. They are sent under the block's own tokens, so that it does not matter whether they are in the
// table. What else the messages hold is left to the blocks after it: the lane reads them once more.
//
// Of a join that has lost its input as well they do not come again: others do, of the same rows. Then there is no block any more, what it may have left in the table is
// looked for, and broken is where the lane goes on from.
func (c *collector) recover(ctx context.Context, start origin, upTo snapshot, pending *eventv1.PendingBlock, blocks chan<- *filled) (broken *snapshot, err error) {
	if c.sieve, err = newSieve(c.lane.upstream, start.start, &upTo); err != nil {
		return nil, err
	}
	c.after = start.after
	if err := c.room(ctx); err != nil {
		return nil, err
	}
	missing := func(why string) error {
		return fmt.Errorf("a block of %d rows of schema revision %d was being inserted when %s lost its messages %d to %d, and may be in the table; %s",
			pending.GetRows(), pending.GetSchemaRevision(), c.lane.upstream.Stream(), pending.GetFirstSequence(), pending.GetLastSequence(), why)
	}
	c.lane.trouble.reading(missing("waiting for its records to be in the log again"))
	size := 0
	for {
		done, err := c.sieve.progress.reached(upTo)
		if err != nil {
			return nil, err
		}
		if done {
			break
		}
		msg, err := c.read(ctx)
		if err != nil {
			return nil, err
		}
		other, err := c.sieve.broken(msg)
		if err != nil {
			return nil, missing(err.Error())
		}
		if other {
			return c.abandon(ctx, start, msg, blocks)
		}
		n, err := c.part(msg, pending.GetSchemaRevision())
		if err != nil {
			return nil, missing(err.Error())
		}
		size += n
	}
	if uint64(c.rows.count) != pending.GetRows() {
		return nil, missing(fmt.Sprintf("only %d of its rows came again", c.rows.count))
	}
	c.lane.trouble.reading(nil)
	plan := block.NewPlan(block.Bounds{})
	plan.Add(block.Message{
		Sequence: pending.GetFirstSequence(), Revision: pending.GetSchemaRevision(), Rows: c.rows.count, Bytes: size,
	}, time.Now())
	plan.Add(block.Message{Sequence: pending.GetLastSequence(), Stored: time.Unix(0, pending.GetLastTimeNs())}, time.Now())
	return nil, c.hand(ctx, blocks, &filled{plan: *plan, taken: upTo, recovered: true})
}

// abandon gives up a block whose messages do not come again.
func (c *collector) abandon(ctx context.Context, start origin, msg *fencedlog.Message, blocks chan<- *filled) (*snapshot, error) {
	c.rows.reset()
	progress, err := start.start.progress(c.lane.upstream)
	if err == nil {
		err = progress.goOnFrom(msg)
	}
	if err != nil {
		return nil, err
	}
	c.lane.trouble.reading(nil)
	from := progress.snapshot()
	return &from, c.anew(ctx, &filled{taken: from, abandoned: true}, blocks)
}

// part adds those rows of a message that were in the block, and returns about how many bytes they are.
func (c *collector) part(msg *fencedlog.Message, revision uint64) (size int, err error) {
	if err := c.view.Parse(msg.Data); err != nil {
		return 0, fmt.Errorf("message %d: %w", msg.Sequence, err)
	}
	if _, err := c.sieve.sift(msg, &c.view); err != nil {
		return 0, fmt.Errorf("message %d: %w", msg.Sequence, err)
	}
	if c.view.Selected > 0 {
		layout := c.lane.layouts[revision]
		if c.view.SchemaRevision != revision || layout == nil {
			return 0, fmt.Errorf("its rows came again in schema revision %d", c.view.SchemaRevision)
		}
		if err := c.rows.add(&c.view, layout); err != nil {
			return 0, fmt.Errorf("message %d: %w", msg.Sequence, err)
		}
		c.rows.note(msg, &c.view, time.Now())
		size = int(int64(c.view.ColumnsSize) * int64(c.view.Selected) / int64(c.view.Rows))
	}
	return size, c.sieve.progress.admit(msg, &c.view)
}
