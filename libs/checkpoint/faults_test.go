package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	eventv1 "sluice/gen/sluice/event/v1"
)

var errFault = errors.New("injected fault")

// faulty fails one write operation: before it is done, or after it, as if the answer was lost.
type faulty struct {
	bucket
	at    int
	after bool
	dead  bool // fail everything after it as well: the process is gone

	mu    sync.Mutex
	calls int  // guarded by mu
	hit   bool // guarded by mu until all calls have returned
}

func (f *faulty) fault(do func() error) error {
	f.mu.Lock()
	call := f.calls
	f.calls++
	f.hit = f.hit || call == f.at
	f.mu.Unlock()
	switch {
	case call == f.at:
		if f.after {
			if err := do(); err != nil {
				return err
			}
		}
		return errFault
	case call > f.at && f.dead:
		return errFault
	}
	return do()
}

func (f *faulty) get(ctx context.Context, key string) (v []byte, rev uint64, err error) {
	err = f.fault(func() error { v, rev, err = f.bucket.get(ctx, key); return err })
	return v, rev, err
}

func (f *faulty) put(ctx context.Context, key string, value []byte, revision uint64) (at uint64, err error) {
	err = f.fault(func() error { at, err = f.bucket.put(ctx, key, value, revision); return err })
	return at, err
}

func (f *faulty) remove(ctx context.Context, key string) error {
	return f.fault(func() error { return f.bucket.remove(ctx, key) })
}

func (f *faulty) list(ctx context.Context, prefix string) (keys []string, err error) {
	err = f.fault(func() error { keys, err = f.bucket.list(ctx, prefix); return err })
	return keys, err
}

// TestEveryFault opens a lane with an orphan in it, restores it and saves three times, with a fault
// at operation 0, 1, 2 … until none is left. A process that lives on repeats what failed and gets
// everything through; one that dies leaves a state that was saved as a whole.
func TestEveryFault(t *testing.T) {
	for i := range 8 {
		after, dead, keep := i&1 != 0, i&2 != 0, i&4 != 0
		t.Run(fmt.Sprintf("after=%v,dead=%v,keep=%v", after, dead, keep), func(t *testing.T) {
			_, b := newBucket(t)
			hits := 0
			for at := 0; ; at++ {
				f := &faulty{bucket: b, at: at, after: after, dead: dead}
				checkFault(t, b, f, keep)
				if !f.hit {
					break
				}
				hits++
			}
			require.Greater(t, hits, 12)
		})
	}
}

func checkFault(t *testing.T, b *kv, f *faulty, keep bool) {
	ctx, cfg := t.Context(), config(nil)
	cfg.Keep = keep
	keys, err := b.list(ctx, "")
	require.NoError(t, err)
	for _, k := range keys {
		require.NoError(t, b.remove(ctx, k))
	}
	// What is there before: a checkpoint, and an orphan of a save that never was.
	before, _, err := open(ctx, cfg, b)
	require.NoError(t, err)
	base := []Chunk{chunk(0, 1, 2, 3), chunk(0, 4, 5, 6), chunk(0, 7, 8, 9)}
	require.NoError(t, before.Save(ctx, manifest(1, 0), base))
	require.NoError(t, before.write(ctx, []write{{&eventv1.Segment{}, []byte("orphan")}}))

	saves := []struct {
		m      *eventv1.Manifest
		chunks []Chunk
	}{
		{manifest(2, 4), []Chunk{chunk(0, 110, 111), chunk(0, 112, 113, 114, 115, 116)}},
		{manifest(3, 8), nil},
		{manifest(4, 112), []Chunk{chunk(8, 210)}},
	}
	reached := 0 // saves that were reported done
	run := func() error {
		var lane *Lane
		err := again(f, func() (err error) { lane, _, err = open(ctx, cfg, f); return err })
		if err != nil {
			return err
		}
		err = again(f, func() error {
			return lane.Restore(ctx, func(*eventv1.Segment, []byte) error { return nil })
		})
		if err != nil {
			return err
		}
		for i, s := range saves {
			if i == 2 { // whoever reads the outputs has those up to the second save
				lane.Release(func(m *eventv1.Manifest) bool { return m.GetCoveredSequence() <= 2 })
			}
			if err := again(f, func() error { return lane.Save(ctx, s.m, s.chunks) }); err != nil {
				return err
			}
			reached++
		}
		return nil
	}
	if err := run(); f.dead && f.hit {
		if reached < len(saves) {
			require.ErrorIs(t, err, errFault)
		}
	} else {
		require.NoError(t, err)
		require.Equal(t, len(saves), reached)
	}

	next, m, err := open(ctx, cfg, b)
	require.NoError(t, err)
	got := int(m.CoveredSequence) - 1
	require.True(t, got == reached || got == reached+1 && f.dead, "saves reported %d, found %d", reached, got)
	all, horizon := base, int64(0)
	for _, s := range saves[:got] {
		all, horizon = append(all[:len(all):len(all)], s.chunks...), s.m.HorizonMs
	}
	require.Equal(t, visible(horizon, all), restored(t, next))
	listed := next.listed()
	kept, err := b.list(ctx, "dedup.3.earlier.")
	require.NoError(t, err)
	require.Len(t, listed, len(segmentKeys(t, b))+len(kept), "orphans are collected")
	for _, key := range append(kept, segmentKeys(t, b)...) {
		require.True(t, listed[key], key)
	}
	if !keep {
		require.Empty(t, kept)
		return
	}
	// What is kept can be gone back to, and is what was saved.
	for i, m := range next.Earlier() {
		lane, _, err := open(ctx, cfg, b)
		require.NoError(t, err)
		require.Len(t, lane.Earlier(), len(next.Earlier()))
		require.Equal(t, m.GetCoveredSequence(), lane.GoBack(i).GetCoveredSequence())
		if m.GetCoveredSequence() == 0 { // before there was any
			require.Empty(t, restored(t, lane))
			continue
		}
		all, horizon := base, int64(0)
		for _, s := range saves[:m.GetCoveredSequence()-1] {
			all, horizon = append(all[:len(all):len(all)], s.chunks...), s.m.HorizonMs
		}
		require.Equal(t, visible(horizon, all), restored(t, lane))
	}
	if got == len(saves) {
		require.EqualValues(t, 2, next.Earlier()[0].GetCoveredSequence(), "what was released is gone")
		lane, _, err := open(ctx, cfg, b)
		require.NoError(t, err)
		lane.GoBack(0)
		require.Equal(t, visible(4, append(base[:3:3], saves[0].chunks...)), restored(t, lane))
		lane.Forget()
		require.NoError(t, lane.Save(ctx, manifest(9, 4), nil))
		lane, m, err := open(ctx, cfg, b)
		require.NoError(t, err)
		require.EqualValues(t, 9, m.GetCoveredSequence())
		require.Empty(t, lane.Earlier())
		require.Equal(t, visible(4, append(base[:3:3], saves[0].chunks...)), restored(t, lane), "and no entry of after that")
	}
}

// again repeats what failed by the injected fault, as a process that lives on does.
func again(f *faulty, do func() error) error {
	err := do()
	for errors.Is(err, errFault) && !f.dead {
		err = do()
	}
	return err
}

// TestLateArrival: the manifest of a save that timed out arrives after all, during the next save.
func TestLateArrival(t *testing.T) {
	_, b := newBucket(t)
	ctx := t.Context()
	late := &lateManifest{bucket: b}
	lane, _, err := open(ctx, config(nil), late)
	require.NoError(t, err)
	late.hold = true
	one, two := chunk(0, 1), chunk(0, 2)
	require.ErrorIs(t, lane.Save(ctx, manifest(1, 0), []Chunk{one}), errFault)
	late.hold = false
	require.NoError(t, lane.Save(ctx, manifest(2, 0), []Chunk{one, two}))
	require.True(t, late.arrived)
	next, m, err := open(ctx, config(nil), b)
	require.NoError(t, err)
	require.EqualValues(t, 2, m.CoveredSequence)
	require.Equal(t, []string{"00000001", "00000002"}, restored(t, next))
	require.ElementsMatch(t, keysOf(next.manifest), segmentKeys(t, b))
}

type lateManifest struct {
	bucket
	hold    bool
	held    func()
	arrived bool
}

func (l *lateManifest) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if strings.HasSuffix(key, "manifest") {
		if l.hold {
			l.held = func() {
				_, err := l.bucket.put(ctx, key, value, revision)
				l.arrived = err == nil
			}
			return 0, errFault
		}
		if l.held != nil {
			l.held()
			l.held = nil
		}
	}
	return l.bucket.put(ctx, key, value, revision)
}
