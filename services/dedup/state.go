package dedup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/services/dedup/internal/window"
)

// In the checkpoint, without a join, the state of the set is in the manifest's own fields, but for what came later, and the segments have no part. With
// a join each source's is in a DedupSet, and its segments' part is the source's name.

// Restore brings the sets back.
func (c *core) Restore(_ context.Context, m *eventv1.Manifest, segments func(func(*eventv1.Segment, []byte) error) error) error {
	began, entries := time.Now(), map[string]int{}
	for _, s := range m.GetSegments() {
		entries[s.GetPart()] += int(s.GetEntries())
	}
	saved, err := c.savedSets(m)
	if err != nil {
		return err
	}
	for source, st := range saved {
		b := c.branches[source]
		if b == nil || b.set == nil {
			return fmt.Errorf("%w: it has keys of source %q, which has no dedup", checkpoint.ErrDamaged, source)
		}
		if err := b.restore(st); err != nil {
			return err
		}
		if n := entries[source]; n > 0 {
			b.set.Reserve(n)
		}
	}
	err = segments(func(s *eventv1.Segment, data []byte) error {
		b, err := c.branchOf(s, data)
		if err != nil {
			return err
		}
		return b.set.Restore(data)
	})
	if err != nil {
		return err
	}
	if len(m.GetSegments()) > 0 {
		c.log.Debug("keys restored", "segments", len(m.GetSegments()), "took", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// branchOf is the branch that a segment is of.
func (c *core) branchOf(s *eventv1.Segment, data []byte) (*branch, error) {
	b := c.branches[s.GetPart()]
	if b == nil || b.set == nil {
		return nil, fmt.Errorf("%w: it is of source %q, which has no dedup", checkpoint.ErrDamaged, s.GetPart())
	}
	if len(data) != int(s.GetEntries())*window.EntryBytes(b.config.Latest) {
		return nil, fmt.Errorf("%w: %d entries in %d bytes: made for another dedup.keep", checkpoint.ErrDamaged, s.GetEntries(), len(data))
	}
	return b, nil
}

// Inherit takes the keys that belong to this lane. The horizon is that of the lane that was furthest behind: none of its keys is forgotten early.
func (c *core) Inherit(ctx context.Context, left *checkpoint.Left) error {
	sets := map[string]*eventv1.DedupSet{}
	for _, m := range left.Manifests() {
		saved, err := c.savedSets(m)
		if err != nil {
			return err
		}
		for source, one := range saved {
			sets[source] = merged(sets[source], one)
		}
	}
	for source, st := range sets {
		b := c.branches[source]
		if b == nil || b.set == nil {
			return fmt.Errorf("%w: it has keys of source %q, which has no dedup", checkpoint.ErrDamaged, source)
		}
		if err := b.restore(st); err != nil {
			return err
		}
		b.adopted, b.telling = false, telling{told: map[string]told{}} // nothing was decided yet in this lane
		// merged has left out how far partitions have come: this lane has to hear it itself, and forgets nothing before.
	}
	return left.Segments(ctx, func(s *eventv1.Segment, data []byte) error {
		b, err := c.branchOf(s, data)
		if err != nil {
			return err
		}
		ours := window.Select(data, b.config.Latest, func(low uint64) bool { return batch.Share(low, c.set.Count) == c.lane-c.set.First })
		if ours.Entries == 0 {
			return nil
		}
		c.inherited = append(c.inherited, checkpoint.Chunk{
			Part: s.GetPart(), Data: ours.Data, Entries: ours.Entries, MinMS: ours.MinMS, MaxMS: ours.MaxMS,
			HorizonMS: ours.MinMS - b.set.Window().Milliseconds(), // about what it was then
		})
		return b.set.Restore(ours.Data)
	})
}

// merged is what decisions of one lane depend on that takes over from several.
func merged(a, b *eventv1.DedupSet) *eventv1.DedupSet {
	if a == nil {
		return proto.CloneOf(b)
	}
	if a.MaxTimeMs == nil {
		a.MaxTimeMs = map[string]int64{}
	}
	if a.ArrivalMs == nil {
		a.ArrivalMs = map[string]int64{}
	}
	if a.GetProgress() != nil || b.GetProgress() != nil { // a writer that one lane has heard it from says it
		told := append(a.GetProgress().GetTold(), b.GetProgress().GetTold()...)
		slices.Sort(told)
		a.Progress = &eventv1.DedupProgress{Told: slices.Compact(told)}
	}
	a.HorizonMs, a.WindowMs = min(a.GetHorizonMs(), b.GetHorizonMs()), max(a.GetWindowMs(), b.GetWindowMs())
	for writer, ms := range b.GetMaxTimeMs() {
		if known, ok := a.MaxTimeMs[writer]; !ok || ms > known {
			a.MaxTimeMs[writer] = ms
		}
	}
	for writer, ms := range b.GetArrivalMs() {
		if known, ok := a.ArrivalMs[writer]; !ok || ms > known {
			a.ArrivalMs[writer] = ms
		}
	}
	return a
}

// savedSets are the sets that a checkpoint has, by source.
func (c *core) savedSets(m *eventv1.Manifest) (map[string]*eventv1.DedupSet, error) {
	if !c.joined {
		if m.GetWindowMs() == 0 { // nothing was ever saved
			return nil, nil
		}
		var st eventv1.DedupState // empty where time is that of arrival, or an earlier version wrote it
		if err := proto.Unmarshal(m.GetCore(), &st); err != nil {
			return nil, fmt.Errorf("%w: state of dedup: %w", checkpoint.ErrDamaged, err)
		}
		return map[string]*eventv1.DedupSet{"": {
			HorizonMs: m.GetHorizonMs(), WindowMs: m.GetWindowMs(), MaxTimeMs: m.GetMaxTimeMs(), ArrivalMs: m.GetArrivalMs(),
			Progress: st.GetSets()[""].GetProgress(),
		}}, nil
	}
	var st eventv1.DedupState
	if err := proto.Unmarshal(m.GetCore(), &st); err != nil {
		return nil, fmt.Errorf("%w: state of dedup: %w", checkpoint.ErrDamaged, err)
	}
	return st.GetSets(), nil
}

func (b *branch) restore(saved *eventv1.DedupSet) error {
	st := window.State{HorizonMS: saved.GetHorizonMs(), Writers: map[string]window.Writer{}}
	progress := saved.GetProgress()
	st.Progress, st.Confirm = progress.GetState(), window.Confirm{MS: progress.GetConfirmMs(), EachMS: progress.GetConfirmEachMs()}
	for name, maxMS := range saved.GetMaxTimeMs() {
		st.Writers[name] = window.Writer{MaxMS: maxMS, ArrivalMS: saved.GetArrivalMs()[name], Told: slices.Contains(progress.GetTold(), name)}
	}
	if err := b.set.RestoreState(st); err != nil {
		return errors.Join(checkpoint.ErrDamaged, err)
	}
	// What was published was decided under the window of the checkpoint, and so it is replayed.
	b.adopted = true
	b.telling.restore(saved.GetTelling())
	return b.set.SetWindow(time.Duration(saved.GetWindowMs()) * time.Millisecond)
}

func (b *branch) saved() *eventv1.DedupSet {
	st := b.set.State()
	out := &eventv1.DedupSet{
		HorizonMs: st.HorizonMS, WindowMs: b.set.Window().Milliseconds(),
		MaxTimeMs: make(map[string]int64, len(st.Writers)), ArrivalMs: make(map[string]int64, len(st.Writers)),
	}
	var told []string
	for name, w := range st.Writers {
		out.MaxTimeMs[name], out.ArrivalMs[name] = w.MaxMS, w.ArrivalMS
		if w.Told {
			told = append(told, name)
		}
	}
	if len(st.Progress) > 0 || len(told) > 0 { // the latter alone right after Inherit
		slices.Sort(told)
		out.Progress = &eventv1.DedupProgress{State: st.Progress, Told: told, ConfirmMs: st.Confirm.MS, ConfirmEachMs: st.Confirm.EachMS}
	}
	out.Telling = b.telling.saved()
	return out
}

// Checkpoint says what a checkpoint needs of the sets, and returns the keys that are new.
func (c *core) Checkpoint(m *eventv1.Manifest) (chunks []checkpoint.Chunk) {
	state := &eventv1.DedupState{Sets: map[string]*eventv1.DedupSet{}}
	chunks, c.inherited = c.inherited, nil
	for source, b := range c.branches {
		if b.set == nil {
			continue
		}
		s := b.saved()
		for _, e := range b.set.Take() {
			chunks = append(chunks, checkpoint.Chunk{
				Part: source, Data: e.Data, Entries: e.Entries, MinMS: e.MinMS, MaxMS: e.MaxMS, HorizonMS: e.HorizonMS,
			})
		}
		if !c.joined {
			m.HorizonMs, m.WindowMs, m.MaxTimeMs, m.ArrivalMs = s.HorizonMs, s.WindowMs, s.MaxTimeMs, s.ArrivalMs
			if s.GetProgress() == nil {
				return chunks
			}
			s = &eventv1.DedupSet{Progress: s.GetProgress()}
			m.Core = encoded(&eventv1.DedupState{Sets: map[string]*eventv1.DedupSet{source: s}})
			return chunks
		}
		state.Sets[source] = s
		if m.HorizonsMs == nil {
			m.HorizonsMs = map[string]int64{}
		}
		m.HorizonsMs[source] = s.HorizonMs
	}
	m.Core = encoded(state)
	return chunks
}

func encoded(state *eventv1.DedupState) []byte {
	out, err := (proto.MarshalOptions{Deterministic: true}).Marshal(state)
	if err != nil {
		panic(fmt.Sprintf("encode the state of dedup: %v", err)) // of a message without required fields or foreign text
	}
	return out
}

// sealAfter is how long a segment of each source may grow: see checkpoint.Config.
func (c *core) sealAfter() map[string]time.Duration {
	out := map[string]time.Duration{}
	for source, b := range c.branches {
		if b.set != nil {
			out[source] = max(b.config.Window/16, time.Millisecond)
		}
	}
	return out
}
