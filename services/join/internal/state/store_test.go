package state_test

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/services/join/internal/disk"
	"sluice/services/join/internal/state"
)

// model is the rows as a plain slice.
type model []state.Row

func (m model) find(side state.Side, key *state.Key, from, to int64) []state.Row {
	var out []state.Row
	for _, r := range m {
		if r.Side == side && (key == nil || r.Key == *key) && r.TimeMS >= from && r.TimeMS <= to {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b state.Row) int { return cmp.Or(cmp.Compare(a.TimeMS, b.TimeMS), cmp.Compare(a.Seq, b.Seq)) })
	return out
}

// plain is what of a row a caller sees.
func plain(r *state.Row) state.Row {
	return state.Row{
		Side: r.Side, Matched: r.Matched, Key: r.Key, TimeMS: r.TimeMS, Seq: r.Seq, Partition: r.Partition, Offset: r.Offset,
		Revision: r.Revision, Cells: slices.Clone(r.Cells),
	}
}

// TestStoreProperty: whatever is inserted, marked and removed, with any memory, all walks give what a plain slice gives, also after everything
// was restored from what was written down.
func TestStoreProperty(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.SampledFrom([]int{0, 1, 40_000, 300_000}).Draw(t, "budget")
		open := func() *state.Store {
			return state.New(state.Options{Budget: budget, BornMS: 10, Disk: func() (state.Disk, error) { return disk.Open(dir) }})
		}
		s := open()
		defer func() { require.NoError(t, s.Close()) }()
		var rows model
		var frames []state.Frame
		keys := []state.Key{{1, 2}, {3, 4}, {1, 1 << 63}, {math.MaxUint64, math.MaxUint64}, {1 << 32, 2}}
		now := int64(0)
		for seq := range uint64(rapid.IntRange(1, 150).Draw(t, "steps")) {
			now += rapid.Int64Range(0, 5).Draw(t, "later")
			s.SetTime(now)
			side := state.Side(rapid.IntRange(0, 1).Draw(t, "side"))
			key := rapid.SampledFrom(keys).Draw(t, "key")
			from := rapid.OneOf(rapid.Int64Range(-20, 60), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64})).Draw(t, "from")
			to := rapid.OneOf(rapid.Int64Range(-20, 60), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64})).Draw(t, "to")
			switch rapid.SampledFrom([]string{"insert", "insert", "insert", "insert many", "key", "times", "latest", "mark", "remove", "restart"}).Draw(t, "what") {
			case "insert many":
				for range 50 {
					r := state.Row{Side: side, Key: key, TimeMS: rapid.Int64Range(-20, 60).Draw(t, "time"), Seq: seq<<8 | uint64(len(rows)&0xff), Revision: 1, Cells: make([]byte, 300)}
					if len(rows.find(side, &key, r.TimeMS, r.TimeMS)) == 0 {
						s.Insert(r)
						rows = append(rows, plain(&r))
					}
				}
			case "insert":
				r := state.Row{
					Side: side, Matched: rapid.Bool().Draw(t, "matched"), Key: key, TimeMS: rapid.OneOf(rapid.Int64Range(-20, 60), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64})).Draw(t, "time"),
					Seq: seq<<8 | 0xff, Partition: int32(seq), Offset: -int64(seq), Revision: seq % 3, Cells: rapid.SliceOfN(rapid.Byte(), 1, 600).Draw(t, "cells"),
				}
				s.Insert(r)
				rows = append(rows, plain(&r))
			case "key":
				var got []state.Row
				require.NoError(t, s.Key(side, key, from, to, func(r *state.Row) error { got = append(got, plain(r)); return nil }))
				require.Equal(t, rows.find(side, &key, from, to), got)
			case "times":
				var got []state.Row
				require.NoError(t, s.Times(side, from, to, func(r *state.Row) error { got = append(got, plain(r)); return nil }))
				require.Equal(t, rows.find(side, nil, from, to), got)
			case "latest":
				r, ok, err := s.Latest(side, key, to)
				require.NoError(t, err)
				want := rows.find(side, &key, math.MinInt64, to)
				require.Equal(t, len(want) > 0, ok)
				if ok {
					require.Equal(t, want[len(want)-1], plain(&r))
				}
				r, ok, err = s.At(side, key, to)
				require.NoError(t, err)
				want = rows.find(side, &key, to, to)
				require.Equal(t, len(want) > 0, ok)
				if ok {
					require.Equal(t, want[len(want)-1], plain(&r))
				}
			case "mark":
				gone := rows.find(side, &key, from, to)
				require.NoError(t, s.Key(side, key, from, to, s.Match))
				for _, g := range gone {
					for i := range rows {
						if rows[i].Seq == g.Seq && rows[i].Side == g.Side {
							rows[i].Matched = true
						}
					}
				}
			case "remove":
				gone := rows.find(side, nil, from, to)
				require.NoError(t, s.Times(side, from, to, func(r *state.Row) error { return s.Remove(r, true) }))
				rows = slices.DeleteFunc(rows, func(r state.Row) bool {
					return slices.ContainsFunc(gone, func(g state.Row) bool { return g.Seq == r.Seq && g.Side == r.Side })
				})
			case "restart":
				require.NoError(t, s.Renew(1<<20))
				frames = append(frames, s.Take()...)
				oldest := s.Oldest()
				frames = slices.DeleteFunc(frames, func(f state.Frame) bool { return f.Born < oldest })
				require.NoError(t, s.Close())
				s = open()
				for _, f := range frames {
					require.NoError(t, s.Restore(f.Data, func(*state.Row) (bool, error) { return true, nil }))
				}
			}
			require.NoError(t, s.Balance())
			if budget > 0 {
				require.LessOrEqual(t, s.Bytes(), max(budget, 600_000))
			}
			require.Equal(t, len(rows.find(state.Left, nil, math.MinInt64, math.MaxInt64)), s.Len(state.Left))
			require.Equal(t, len(rows.find(state.Right, nil, math.MinInt64, math.MaxInt64)), s.Len(state.Right))
			require.LessOrEqual(t, s.OnDisk(), s.Len(state.Left)+s.Len(state.Right))
		}
	})
}

// TestRenew: one row that stays does not keep all that was written since. It is written anew, in memory and on disk.
func TestRenew(t *testing.T) {
	for _, budget := range []int{0, 1} {
		s := state.New(state.Options{Budget: budget, BornMS: 1000, Disk: func() (state.Disk, error) { return disk.Open(t.TempDir()) }})
		defer func() { require.NoError(t, s.Close()) }()
		s.Insert(state.Row{Key: state.Key{1, 1}, TimeMS: math.MaxInt64, Seq: 1, Revision: 1, Cells: []byte("stays")})
		require.NoError(t, s.Balance())
		var kept []state.Frame
		most := 0
		for second := range int64(200) {
			s.SetTime(second * 1000)
			for i := range uint64(10) {
				s.Insert(state.Row{Key: state.Key{2, i}, TimeMS: second, Seq: 2 + uint64(second)*10 + i, Revision: 1, Cells: make([]byte, 100_000)})
			}
			require.NoError(t, s.Times(state.Left, math.MinInt64, second-1, func(r *state.Row) error { return s.Remove(r, false) }))
			require.NoError(t, s.Balance())
			require.NoError(t, s.Renew(1<<20))
			kept = append(kept, s.Take()...)
			oldest := s.Oldest()
			kept = slices.DeleteFunc(kept, func(f state.Frame) bool { return f.Born < oldest })
			most = max(most, len(kept))
		}
		// 200 MB were written, and at any time 1 MB lived; about 34 MB of garbage are allowed.
		require.Less(t, most, 400)
		require.Greater(t, s.Oldest(), uint32(100))
		again := state.New(state.Options{BornMS: 1000})
		for _, f := range kept {
			require.NoError(t, again.Restore(f.Data, func(r *state.Row) (bool, error) { return r.TimeMS >= 199, nil }))
		}
		require.Equal(t, 11, again.Len(state.Left))
		r, ok, err := again.Latest(state.Left, state.Key{1, 1}, math.MaxInt64)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "stays", string(r.Cells))
	}
}

// FuzzRestore: hostile frames are refused, with memory in proportion to what they hold.
func FuzzRestore(f *testing.F) {
	s := state.New(state.Options{})
	s.Insert(state.Row{Key: state.Key{1, 1}, TimeMS: 5, Seq: 1, Revision: 1, Cells: []byte("cells")})
	for _, frame := range s.Take() {
		f.Add(frame.Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = state.New(state.Options{}).Restore(data, func(*state.Row) (bool, error) { return true, nil })
	})
}
