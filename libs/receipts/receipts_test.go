package receipts

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/playground/nats/natstest"
)

// made is a batch of rows at every third offset from 100 on.
func made(t *testing.T, rows int, kept func(row int) bool) *batch.View {
	t.Helper()
	var b batch.Builder
	for row := range rows {
		b.Add(batch.Row{Offset: int64(100 + 3*row)}, batch.Fields{})
	}
	v := &batch.View{TopicID: make([]byte, 16), Partition: 2}
	b.View(v, func(dst []byte) []byte { return dst })
	v.Selection = v.OwnSelection(nil)
	for row := range rows {
		if !kept(row) {
			v.Selection[row/8] &^= 1 << (row % 8)
			v.Selected--
		}
	}
	return v
}

func TestFates(t *testing.T) {
	id := make([]byte, 16)
	for name, kept := range map[string]func(int) bool{
		"all": func(int) bool { return true }, "none": func(int) bool { return false },
		"every other": func(row int) bool { return row%2 == 0 }, "but the first": func(row int) bool { return row > 0 },
		"but the last": func(row int) bool { return row < 999 },
	} {
		t.Run(name, func(t *testing.T) {
			r := Describe(made(t, 1000, kept), 7, nil)
			for row := range 1000 {
				want := Dropped
				if kept(row) {
					want = Kept
				}
				require.Equal(t, want, FateOf(r, id, 2, int64(100+3*row)), row)
			}
			require.Equal(t, Another, FateOf(r, id, 2, 99))
			require.Equal(t, Another, FateOf(r, id, 2, 100+3*1000))
			require.Equal(t, Another, FateOf(r, id, 1, 100))
			require.Equal(t, Another, FateOf(r, []byte("another incarnation"), 2, 100))
		})
	}
	many := Describe(made(t, 16000, func(row int) bool { return row == 0 }), 7, nil)
	require.Equal(t, Either, FateOf(many, id, 2, 103), "too many to name")
	many.Dropped = []byte{0x80}
	require.Equal(t, Either, FateOf(many, id, 2, 103), "damaged")
}

func TestReceiptsAreReadBack(t *testing.T) {
	nc, err := nats.Connect(natstest.Start(t))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	ctx := t.Context()
	read := func(lane int) (firsts []uint64) {
		require.NoError(t, Each(ctx, js, "p", lane, func(r *eventv1.Receipt) bool {
			firsts = append(firsts, r.GetFirstSequence())
			return true
		}))
		return firsts
	}
	require.Empty(t, read(-1), "no stream is no receipts")
	require.NoError(t, Ensure(ctx, js, "p"))
	require.NoError(t, Ensure(ctx, js, "p"))
	require.Empty(t, read(-1))
	for i := range 10 {
		require.NoError(t, Publish(nc, "p", &eventv1.Receipt{Lane: uint32(i % 2), FirstSequence: uint64(i)}))
	}
	require.NoError(t, nc.FlushTimeout(10*time.Second))
	require.Eventually(t, func() bool { return len(read(-1)) == 10 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, []uint64{1, 3, 5, 7, 9}, read(1))
	seen := 0
	require.NoError(t, Each(ctx, js, "p", -1, func(*eventv1.Receipt) bool { seen++; return false }))
	require.Equal(t, 1, seen)
	require.NoError(t, Remove(ctx, js, "p"))
	require.NoError(t, Remove(ctx, js, "p"))
}
