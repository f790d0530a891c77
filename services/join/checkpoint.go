package join

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fold"
	"sluice/services/join/internal/match"
	"sluice/services/join/internal/state"
)

// In the checkpoint the times of segments are buckets of log time, in milliseconds: a segment is of use as long as a row lives that was
// written in its buckets or before. The manifest's own fields have the tally; its core has the watermarks and the number of the last row.

// renewBytes is how much of old rows is written anew in one checkpoint at most.
const renewBytes = 16 << 20

// Restore brings the rows back.
func (c *core) Restore(_ context.Context, m *eventv1.Manifest, segments func(func(*eventv1.Segment, []byte) error) error) error {
	began := time.Now()
	t := batch.TallyOf(m.GetTally())
	c.joiner.Counts = match.Counts{Matched: t.Matched, Unmatched: t.Unmatched, Late: t.Late, Dropped: t.Dropped}
	if len(m.GetCore()) == 0 { // nothing was ever saved
		return nil
	}
	// The next message says it: what was taken since the one before that is not known any more.
	taken, err := batch.TakenOf(m.GetTaken())
	if err != nil {
		return errors.Join(checkpoint.ErrDamaged, err)
	}
	c.out.since = taken
	version, n := binary.Uvarint(m.GetCore())
	if n <= 0 || version == 0 || version > stateVersion {
		return fmt.Errorf("%w: version %d of the join's state; this version reads up to %d", checkpoint.ErrFormat, version, stateVersion)
	}
	rest := m.GetCore()[n:]
	if version == 1 { // settings could not change then, and a bucket was the unit
		c.unitMS = c.asked.bornMS()
		c.adopt(c.asked)
	} else {
		rest, err = c.restoreSettings(version, rest)
	}
	if err == nil {
		rest, err = c.tracker.Restore(rest)
	}
	if err == nil {
		rest, err = c.joiner.Restore(rest)
	}
	if err == nil && version >= 4 {
		if c.newest, n = binary.Uvarint(rest); n <= 0 {
			err = errors.New("the newest schema revision is cut off")
		}
	}
	if err != nil {
		return errors.Join(checkpoint.ErrDamaged, err)
	}
	err = segments(func(_ *eventv1.Segment, data []byte) error { return c.rows.Restore(data, c.wanted) })
	if err != nil {
		return err
	}
	if n := len(m.GetSegments()); n > 0 {
		c.log.Debug("rows restored", "rows", c.rows.Len(0)+c.rows.Len(1), "on_disk", c.rows.OnDisk(), "segments", n,
			"took", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// wanted tells whether a row of a checkpoint is to be had.
func (c *core) wanted(r *state.Row) (bool, error) {
	c.newest = max(c.newest, r.Revision) // which states before version 4 do not say
	if c.only != nil && !c.only(r) {
		return false, nil
	}
	return c.joiner.Wanted(r)
}

// Checkpoint returns the rows that are new, and what has become of those before.
func (c *core) Checkpoint(m *eventv1.Manifest) []checkpoint.Chunk {
	if err := c.rows.Renew(renewBytes); err != nil {
		// What has been written down is right; only the disk's answers are not any more.
		c.broken = errors.Join(err, fold.ErrBroken)
	}
	frames := c.rows.Take()
	m.HorizonMs = int64(c.rows.Oldest()) * c.unitMS
	m.Core = c.appendState(nil)
	chunks := make([]checkpoint.Chunk, len(frames))
	for i, f := range frames {
		begin := int64(f.Born) * c.unitMS
		chunks[i] = checkpoint.Chunk{Data: f.Data, Entries: f.Entries, MinMS: begin, MaxMS: begin + c.unitMS - 1, HorizonMS: m.HorizonMs}
	}
	return chunks
}

// sealAfter: see checkpoint.Config.
func (c *core) sealAfter() map[string]time.Duration {
	return map[string]time.Duration{"": 2 * ms(c.asked.bornMS())}
}
