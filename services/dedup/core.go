package dedup

import (
	"fmt"
	"log/slog"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fold"
	"sluice/libs/spec"
	"sluice/libs/watermark"
	"sluice/services/dedup/internal/window"
)

// core is the fold.Core: a set of keys for each source that has dedup, and what takes batches apart.
type core struct {
	log      *slog.Logger
	lane     int
	set      spec.LaneSet
	joined   bool               // the pipeline has a join
	branches map[string]*branch // by source; "" without a join
	apart    apart

	inherited []checkpoint.Chunk // of lanes before; for the next checkpoint
	selection []byte             // scratch for batches that come without one
}

// branch is the way of one source through the stage.
type branch struct {
	config  window.Config
	confirm window.Confirm // that is asked for where the set goes by how far partitions have come
	set     *window.Set    // nil: every row passes
	adopted bool           // a checkpoint says under which window the outputs are decided
	relane  bool           // its rows are for the lanes of their join keys
	telling telling        // where relane
	everyMS int64          // that is asked for
	eachMS  int64          // that is asked for
}

func newCore(record *controlv1.PipelineRecord, lane int, set spec.LaneSet, log *slog.Logger) (*core, error) {
	p := record.GetSpec()
	c := &core{
		log: log, lane: lane, set: set, joined: p.GetJoin() != nil, branches: map[string]*branch{},
		apart: apart{record: record},
	}
	for _, b := range spec.Branches(p) {
		out := &branch{relane: b.Relane, telling: telling{told: map[string]told{}}}
		if b.Relane {
			out.everyMS, out.eachMS = spec.Heartbeat(p, b, 0).Milliseconds(), spec.HeartbeatEach(p, b).Milliseconds()
		}
		if b.Dedup != nil {
			out.config = configOf(b.Dedup)
			out.confirm = window.Confirm{MS: spec.Confirm(p).Milliseconds(), EachMS: spec.ConfirmEach(p, b).Milliseconds()}
			var err error
			if out.set, err = window.New(out.config); err != nil {
				return nil, err
			}
		}
		c.branches[b.Source] = out
	}
	return c, nil
}

var (
	_ fold.Core       = (*core)(nil)
	_ fold.Adopter    = (*core)(nil)
	_ fold.Rememberer = (*core)(nil)
	_ fold.Heir       = (*core)(nil)
)

// outputs are the lanes that the core appends to.
func (c *core) outputs() []int {
	for _, b := range c.branches {
		if b.relane {
			return c.set.Lanes()
		}
	}
	return []int{c.lane}
}

// Step clears the selection bit of each duplicate and puts the batch out, as it is otherwise or taken apart.
func (c *core) Step(in fold.Input, out fold.Emitter) error {
	v := in.View
	b := c.branches[string(v.Source)]
	if b == nil {
		return fmt.Errorf("a batch of source %q, which the pipeline does not have (yet)", v.Source)
	}
	if b.relane && v.Selected > 0 { // before anything changes: what cannot be taken apart must not be half done
		if err := c.apart.open(v, in.Published); err != nil {
			return err
		}
	}
	taken, duplicates, err := c.admit(b, in)
	if err != nil {
		return err
	}
	in.Tally.Records += uint64(taken)
	in.Tally.Duplicates += uint64(duplicates)
	in.Tally.Rows += uint64(taken - duplicates)
	v.Selected = taken - duplicates
	v.InputSequence, v.Tally = in.Sequence, *in.Tally
	if !c.joined {
		if v.Rows == 0 {
			return nil // it was for us: no later stage asks how far a partition is
		}
		v.Progress = batch.Progress{}
	}
	v.Progress.TellsDedup, v.Progress.MaxDedupMS, v.Progress.HasDedup, v.Progress.UntimedMS = false, 0, false, 0
	if b.relane {
		return c.apart.emit(v, c.set, b.telling.lanes(in, c.set.Count), out)
	}
	return out.Append(c.lane, func(dst []byte) []byte { return appendOutput(v, dst) })
}

// Remember takes the keys of rows that are out already. Which of two rows of a key has passed is not asked: one of them has.
func (c *core) Remember(in fold.Input) error {
	v := in.View
	b := c.branches[string(v.Source)]
	if b == nil {
		return fmt.Errorf("a batch of source %q, which the pipeline does not have (yet)", v.Source)
	}
	taken, duplicates, err := c.admit(b, in)
	in.Tally.Records += uint64(taken)
	in.Tally.Duplicates += uint64(duplicates)
	in.Tally.Rows += uint64(taken - duplicates)
	return err
}

// admit clears the selection bit of each duplicate and counts.
func (c *core) admit(b *branch, in fold.Input) (taken, duplicates int, err error) {
	v := in.View
	told := b.tells(v)
	idleSinceMS := v.Progress.IdleSinceMS
	if idleSinceMS == 0 { // it says as little of event time, whatever it has
		idleSinceMS = v.Progress.UntimedMS
	}
	if b.set == nil || !told && (v.Rows == 0 || len(v.Keys) == 0) {
		return v.Selected, 0, nil
	}
	if v.Rows > 0 {
		c.selection = v.OwnSelection(c.selection)
	}
	duplicates, err = b.set.Admit(window.Batch{
		Writer: in.Writer, ArrivalMS: v.ArrivalMS, Rows: v.Rows,
		Keys: v.Keys, Times: v.Times, Versions: v.Versions, Selection: v.Selection,
		Told: told, Progress: watermark.Batch{
			Writer: in.Writer, TopicID: string(v.TopicID), Partition: v.Partition, ArrivalMS: v.ArrivalMS,
			MaxMS: v.Progress.MaxDedupMS, HasMax: v.Progress.HasDedup, IdleSinceMS: idleSinceMS, Partitions: v.Progress.Partitions,
		},
	})
	return v.Selected, duplicates, err
}

// tells says whether a batch says how far its partition has come by what the set goes by.
func (b *branch) tells(v *batch.View) bool {
	if b.set == nil || !v.Progress.TellsDedup {
		return false
	}
	_, follows := b.set.Follows()
	return follows
}

// Adopt changes over to the windows that are asked for now, to going by how far partitions have come, and to how often lanes are told.
func (c *core) Adopt() (changed bool, err error) {
	for _, b := range c.branches {
		if b.telling.everyMS != b.everyMS || b.telling.eachMS != b.eachMS {
			b.telling.everyMS, b.telling.eachMS, changed = b.everyMS, b.eachMS, true
		}
		if b.set == nil {
			continue
		}
		if confirm, follows := b.set.Follows(); b.config.EventTime && (!follows || confirm != b.confirm) {
			b.set.Follow(b.confirm)
			changed = true
		}
		if b.adopted && b.set.Window() == b.config.Window {
			continue
		}
		b.adopted, changed = true, true
		if err := b.set.SetWindow(b.config.Window); err != nil {
			return false, err
		}
	}
	return changed, nil
}

// Report tells how large the sets are.
func (c *core) Report(s *stagev1.UnitStatus) {
	s.StateKeys, s.StateBytes = 0, 0
	for _, b := range c.branches {
		if b.set != nil {
			s.StateKeys += uint64(b.set.Len())
			s.StateBytes += uint64(b.set.Bytes())
		}
	}
}

// Close has nothing to let go of.
func (c *core) Close() error { return nil }

// late is for the metrics.
func (c *core) late() (n uint64) {
	for _, b := range c.branches {
		if b.set != nil {
			n += b.set.Late()
		}
	}
	return n
}
