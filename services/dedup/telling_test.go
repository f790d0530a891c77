package dedup

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/libs/batch"
	"sluice/libs/fold"
)

// Which lanes get a message: all of them at first, as often as it is due by the log's clock, with a batch without rows, and when the topic has grown; else those
// that a row is for. What a checkpoint has kept goes on the same.
func TestTelling(t *testing.T) {
	of := func(arrivalMS int64, partitions int, shares ...uint64) *batch.View {
		v := &batch.View{ArrivalMS: arrivalMS, Rows: len(shares), Selected: len(shares), Progress: batch.Progress{Partitions: partitions}}
		for _, share := range shares {
			v.JoinKeys = binary.LittleEndian.AppendUint64(v.JoinKeys, share<<32)
			v.JoinKeys = binary.LittleEndian.AppendUint64(v.JoinKeys, 1)
		}
		return v
	}
	dropped := func(v *batch.View, rows ...int) *batch.View {
		v.Selection = v.OwnSelection(nil)
		for _, row := range rows {
			v.Selection[row/8] &^= 1 << (row % 8)
		}
		v.Selected -= len(rows)
		return v
	}
	all := []bool{true, true, true}
	tell := telling{everyMS: 1000, told: map[string]told{}}
	for i, step := range []struct {
		writer string
		v      *batch.View
		want   []bool
	}{
		{"a", of(5000, 2, 1), all},
		{"b", of(5000, 2, 1), all},
		{"a", of(5999, 2, 1, 2, 1), []bool{false, true, true}},
		{"a", dropped(of(5999, 2, 1, 2, 1), 0, 2), []bool{false, false, true}},
		{"a", dropped(of(5999, 2, 0), 0), []bool{false, false, false}},
		{"a", of(6000, 2, 0), all},
		{"b", of(5400, 2, 0), []bool{true, false, false}},
		{"b", of(5500, 3, 0), all},
		{"b", of(5600, 3), all},
		{"b", of(6500, 3, 2), []bool{false, false, true}},
		{"b", of(6600, 3, 2), all},
		{"a", of(2000, 2, 2), all}, // another clock
		{"a", of(2999, 2, 2), []bool{false, false, true}},
	} {
		require.Equal(t, step.want, tell.lanes(fold.Input{Writer: step.writer, View: step.v}, 3), "step %d", i)
		again := telling{}
		again.restore(tell.saved())
		require.Equal(t, tell.told, again.told)
		again.shares = tell.shares
		tell = again
	}
	tell = telling{everyMS: 1000, eachMS: 400, told: map[string]told{}}
	require.Equal(t, all, tell.lanes(fold.Input{Writer: "a", View: of(5000, 3, 1)}, 3))
	require.NotEqual(t, all, tell.lanes(fold.Input{Writer: "a", View: of(6199, 3, 1)}, 3), "of many partitions each is heard of the less often")
	again := telling{}
	again.restore(tell.saved())
	require.Equal(t, tell.eachMS, again.eachMS)
	require.Equal(t, all, tell.lanes(fold.Input{Writer: "a", View: of(6200, 3, 1)}, 3))
	before := telling{}
	before.restore(nil)
	for range 2 {
		require.Equal(t, all, before.lanes(fold.Input{Writer: "a", View: of(5000, 1, 1)}, 3), "as earlier versions did")
	}
	require.Nil(t, before.saved())
}
