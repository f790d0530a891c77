package receipts

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

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
		require.NoError(t, Each(ctx, js, "p", lane, func(r *eventv1.Receipt, _ uint64) bool {
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
	require.NoError(t, nc.FlushTimeout(time.Minute))
	require.Eventually(t, func() bool { return len(read(-1)) == 10 }, time.Minute, 10*time.Millisecond)
	require.Equal(t, []uint64{1, 3, 5, 7, 9}, read(1))
	seen := 0
	require.NoError(t, Each(ctx, js, "p", -1, func(*eventv1.Receipt, uint64) bool { seen++; return false }))
	require.Equal(t, 1, seen)
	require.NoError(t, Remove(ctx, js, "p"))
	require.NoError(t, Remove(ctx, js, "p"))
}

// TestOriginsComeBack as they were, in a few bytes a row.
func TestOriginsComeBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var want []batch.Origin
	v := &batch.View{}
	next := [4]int64{1 << 40, 7, 0, 1 << 50}
	for range 5000 {
		o := batch.Origin{LeftPartition: int32(rnd.IntN(4)), RightPartition: int32(rnd.IntN(3) - 1)}
		next[o.LeftPartition] += rnd.Int64N(3) - 1
		o.LeftOffset = next[o.LeftPartition]
		if o.RightPartition != batch.NoRight {
			o.RightOffset = rnd.Int64N(1 << 20)
		}
		v.Origins = batch.AppendOrigin(v.Origins, o)
		want = append(want, o)
	}
	v.Rows, v.Selected = len(want), len(want)
	b := Describe(v, 7, nil)
	require.True(t, b.GetJoined())
	require.Equal(t, want, slices.Collect(Origins(b)))
	v.Selection = []byte{0b101}
	v.Rows, v.Selected = 3, 2
	require.Equal(t, []batch.Origin{want[0], want[2]}, slices.Collect(Origins(Describe(v, 7, nil))), "only what is selected")

	// A left batch in the order of its offsets, which meets rows that came lately.
	v = &batch.View{Rows: 1000, Selected: 1000}
	for n := range int64(1000) {
		v.Origins = batch.AppendOrigin(v.Origins, batch.Origin{LeftPartition: 2, LeftOffset: 5_000_000 + n, RightPartition: 1, RightOffset: 7_000_000 + rnd.Int64N(5000)})
	}
	require.Less(t, len(Describe(v, 7, nil).GetOrigins()), 4*1000)
	b = Describe(v, 7, nil)
	b.Origins = b.Origins[:len(b.Origins)-1]
	require.Len(t, slices.Collect(Origins(b)), 999, "damaged")
}

// TestLargeReceiptsGoInParts that a message takes.
func TestLargeReceiptsGoInParts(t *testing.T) {
	nc, err := nats.Connect(natstest.Start(t))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	require.NoError(t, Ensure(t.Context(), js, "p"))
	large := &eventv1.Receipt{Lane: 1, FirstSequence: 5, Token: "t", Stage: "s"}
	for n := range uint64(100) {
		large.Batches = append(large.Batches, &eventv1.BatchReceipt{Sequence: n, Origins: make([]byte, 100<<10)})
	}
	require.Greater(t, proto.Size(large), int(nc.MaxPayload()))
	require.NoError(t, Publish(nc, "p", large))
	require.NoError(t, nc.FlushTimeout(time.Minute))
	var seen []uint64
	require.Eventually(t, func() bool {
		seen = nil
		err := Each(t.Context(), js, "p", 1, func(r *eventv1.Receipt, _ uint64) bool {
			for _, b := range r.GetBatches() {
				seen = append(seen, b.GetSequence())
			}
			return r.GetToken() == "t" && r.GetStage() == "s" && r.GetFirstSequence() == 5
		})
		return err == nil && len(seen) == 100
	}, time.Minute, 10*time.Millisecond)
	require.True(t, slices.IsSorted(seen))
}
