package join

import (
	"context"
	"fmt"
	"math"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/services/join/internal/state"
)

// Inherit takes the rows that wait in the lanes before and whose keys are of this lane now.
//
// Each of those lanes has decided up to its own watermark, and they may differ by as much as one had heard more lately than another; but each has taken
// in all rows that were there. So time goes on from the furthest watermark, as if all lanes had heard of it: rows that are due by it leave with the first
// batch, before anything else. Where the partitions stand is heard again: their writers may have other names, and each tells new lanes first thing.
func (c *core) Inherit(ctx context.Context, left *checkpoint.Left) error {
	for i, m := range left.Manifests() {
		if err := c.inherit(ctx, m, func(each func(*eventv1.Segment, []byte) error) error { return left.SegmentsOf(ctx, i, each) }, i == 0); err != nil {
			return err
		}
	}
	return nil
}

func (c *core) inherit(ctx context.Context, m *eventv1.Manifest, segments func(func(*eventv1.Segment, []byte) error) error, first bool) (err error) {
	old := c.lane()
	defer func() {
		if closed := old.Close(); err == nil {
			err = closed
		}
	}()
	old.only = func(r *state.Row) bool { return batch.Share(r.Key[0], c.set.Count) == c.share }
	if err := old.Restore(ctx, m, segments); err != nil {
		return err
	}
	c.rows.SetTime(old.rows.Time())
	c.newest = max(c.newest, old.newest)
	c.tracker.Inherit(old.tracker)
	c.joiner.Inherit(old.joiner, first)
	for _, side := range []state.Side{state.Left, state.Right} {
		err := old.rows.Times(side, math.MinInt64, math.MaxInt64, func(r *state.Row) error {
			c.joiner.Take(*r)
			return c.rows.Balance()
		})
		if err != nil {
			return fmt.Errorf("take over rows that wait: %w", err)
		}
	}
	return nil
}
