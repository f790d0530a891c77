package match_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/libs/watermark"
	"sluice/services/join/internal/match"
	"sluice/services/join/internal/state"
)

// TestTies: which of several right rows of one time a left row gets does not depend on the order in which they come: before its own time, as the
// first after it, or late.
func TestTies(t *testing.T) {
	rows := []state.Row{{Partition: 0, Offset: 9}, {Partition: 1, Offset: 3}, {Partition: 1, Offset: 4}} // the last counts
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for _, budget := range []int{0, 1} {
			for _, late := range []bool{false, true} {
				t.Run(fmt.Sprint(order, budget, late), func(t *testing.T) {
					config := match.Config{Lookup: true, WindowMS: match.Forever, WaitMS: 10}
					w := newWorld(t, config, watermark.Config{}, budget, t.TempDir())
					defer func() { w.close() }()
					add := func(r state.Row, value string) {
						r.Key, r.Cells = keyOf("ann"), []byte(value)
						_, err := w.joiner.Add(r, 0, w)
						require.NoError(t, err)
						require.NoError(t, w.rows.Balance())
					}
					if late {
						require.NoError(t, w.joiner.Advance(101, w))
					} else {
						add(state.Row{Side: state.Left, TimeMS: 90}, "waits")
						add(state.Row{Side: state.Left, TimeMS: 100}, "as of")
					}
					for _, i := range order {
						r := rows[i]
						r.Side, r.TimeMS = state.Right, 100
						add(r, fmt.Sprint("v", i))
						require.Equal(t, 1, w.rows.Len(state.Right))
						w.checkpoint()
						w.crash()
					}
					want := []string{"waits + v2", "as of + v2"}
					if late {
						add(state.Row{Side: state.Left, TimeMS: 101}, "as of")
						want = []string{"as of + v2"}
					}
					w.lines = nil
					require.NoError(t, w.joiner.Advance(102, w))
					require.ElementsMatch(t, want, w.lines)
				})
			}
		}
	}
}

// TestTiesOfOlderState: an earlier version kept all right rows of one time.
func TestTiesOfOlderState(t *testing.T) {
	for _, time := range []int64{100, 200} { // as of the watermark, and after it
		w := newWorld(t, match.Config{Lookup: true, WindowMS: match.Forever}, watermark.Config{}, 0, t.TempDir())
		require.NoError(t, w.joiner.Advance(150, w))
		for i, offset := range []int64{8, 9, 7} {
			w.rows.Insert(state.Row{
				Side: state.Right, Key: keyOf("ann"), TimeMS: time, Seq: uint64(i + 1), Offset: offset, Cells: fmt.Append(nil, "v", offset),
			})
		}
		w.checkpoint()
		w.crash()
		require.Equal(t, 1, w.rows.Len(state.Right))
		_, err := w.joiner.Add(state.Row{Side: state.Left, Key: keyOf("ann"), TimeMS: 200, Cells: []byte("order")}, 0, w)
		require.NoError(t, err)
		require.NoError(t, w.joiner.Advance(201, w))
		require.Equal(t, []string{"order + v9"}, w.lines)
		w.close()
	}
}
