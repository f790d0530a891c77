package dedup

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fold"
	"sluice/services/dedup/internal/window"
)

// core is the fold.Core of a pipeline without a join: one set of keys.
type core struct {
	set     *window.Set
	config  window.Config
	log     *slog.Logger
	output  int // lane
	adopted bool

	selection []byte // scratch for batches that come without one
}

func newCore(config window.Config, output int, log *slog.Logger) (*core, error) {
	set, err := window.New(config)
	if err != nil {
		return nil, err
	}
	return &core{set: set, config: config, log: log, output: output}, nil
}

var (
	_ fold.Core    = (*core)(nil)
	_ fold.Adopter = (*core)(nil)
)

// Step clears the selection bit of each duplicate and puts the batch out as it is otherwise.
func (c *core) Step(in fold.Input, out fold.Emitter) error {
	v := in.View
	taken, duplicates := v.Selected, 0
	if v.Rows > 0 && len(v.Keys) > 0 {
		c.selection = v.OwnSelection(c.selection)
		n, err := c.set.Admit(window.Batch{
			Writer: in.Writer, ArrivalMS: v.ArrivalMS, Rows: v.Rows,
			Keys: v.Keys, Times: v.Times, Versions: v.Versions, Selection: v.Selection,
		})
		if err != nil {
			return err
		}
		duplicates = n
	}
	in.Tally.Records += uint64(taken)
	in.Tally.Duplicates += uint64(duplicates)
	in.Tally.Rows += uint64(taken - duplicates)
	return out.Append(c.output, func(dst []byte) []byte {
		v.Selected = taken - duplicates
		v.InputSequence, v.Tally = in.Sequence, *in.Tally
		return appendOutput(v, dst)
	})
}

// Adopt changes over to the window that is asked for now.
func (c *core) Adopt() (bool, error) {
	if c.adopted && c.set.Window() == c.config.Window {
		return false, nil
	}
	c.adopted = true
	return true, c.set.SetWindow(c.config.Window)
}

func (c *core) Restore(ctx context.Context, m *eventv1.Manifest, segments func(func(*eventv1.Segment, []byte) error) error) error {
	began, entries := time.Now(), 0
	for _, s := range m.GetSegments() {
		entries += int(s.GetEntries())
	}
	if w := m.GetWindowMs(); w > 0 { // else nothing was ever saved
		st := window.State{HorizonMS: m.GetHorizonMs(), Writers: map[string]window.Writer{}}
		for name, maxMS := range m.GetMaxTimeMs() {
			st.Writers[name] = window.Writer{MaxMS: maxMS, ArrivalMS: m.GetArrivalMs()[name]}
		}
		c.set.RestoreState(st)
		// What was published was decided under the window of the checkpoint, and so it is replayed.
		if err := c.set.SetWindow(time.Duration(w) * time.Millisecond); err != nil {
			return err
		}
		c.adopted = true
	}
	if entries > 0 {
		c.set.Reserve(entries)
	}
	if err := segments(func(s *eventv1.Segment, data []byte) error { return restoreSegment(c.set, c.config, s, data) }); err != nil {
		return err
	}
	c.log.Info("state restored", "keys", c.set.Len(), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

func restoreSegment(set *window.Set, config window.Config, s *eventv1.Segment, data []byte) error {
	if len(data) != int(s.GetEntries())*window.EntryBytes(config.Latest) {
		return fmt.Errorf("%w: %d entries in %d bytes: made for another dedup.keep", checkpoint.ErrDamaged, s.GetEntries(), len(data))
	}
	return set.Restore(data)
}

func (c *core) Checkpoint(m *eventv1.Manifest) []checkpoint.Chunk {
	st := c.set.State()
	m.HorizonMs, m.WindowMs = st.HorizonMS, c.set.Window().Milliseconds()
	m.MaxTimeMs, m.ArrivalMs = make(map[string]int64, len(st.Writers)), make(map[string]int64, len(st.Writers))
	for name, w := range st.Writers {
		m.MaxTimeMs[name], m.ArrivalMs[name] = w.MaxMS, w.ArrivalMS
	}
	return appendChunks(nil, "", c.set)
}

func (c *core) Report(s *stagev1.UnitStatus) {
	s.StateKeys, s.StateBytes = uint64(c.set.Len()), uint64(c.set.Bytes())
}

func (c *core) Close() error { return nil }

// late is for the metrics.
func (c *core) late() uint64 { return c.set.Late() }

func appendChunks(chunks []checkpoint.Chunk, part string, set *window.Set) []checkpoint.Chunk {
	for _, e := range set.Take() {
		chunks = append(chunks, checkpoint.Chunk{
			Part: part, Data: e.Data, Entries: e.Entries, MinMS: e.MinMS, MaxMS: e.MaxMS, HorizonMS: e.HorizonMS,
		})
	}
	return chunks
}
