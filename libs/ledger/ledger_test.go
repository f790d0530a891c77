package ledger

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	eventv1 "sluice/gen/sluice/event/v1"
)

type row struct {
	partition int32
	offset    int64
	hash      uint64
	refused   bool
}

var rows = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) row {
	return row{
		partition: rapid.Int32Range(0, 3).Draw(t, "partition"),
		offset:    rapid.Int64Range(0, 50).Draw(t, "offset"),
		// Few, so that they repeat; also those that sums like least.
		hash:    rapid.OneOf(rapid.SampledFrom([]uint64{0, 1, math.MaxUint64, 1 << 63}), rapid.Uint64()).Draw(t, "hash"),
		refused: rapid.IntRange(0, 9).Draw(t, "refused") == 0,
	}
}), 0, 60)

func (l *Ledger) put(r row) {
	if r.refused {
		l.Refuse(r.partition, r.offset)
		return
	}
	l.Add(r.partition, r.offset, r.hash)
}

func of(rows []row) *Ledger {
	l := New(7)
	for _, r := range rows {
		l.put(r)
	}
	return l
}

// In whatever order rows come, and however they are spread over ledgers that are merged, stored and read: it is the
// same ledger, byte for byte.
func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rows.Draw(t, "rows")
		want := of(all)
		shuffled := rapid.Permutation(all).Draw(t, "order")
		merged := New(7)
		for len(shuffled) > 0 {
			n := rapid.IntRange(1, len(shuffled)).Draw(t, "part")
			part, err := Of(of(shuffled[:n]).Proto())
			require.NoError(t, err)
			require.NoError(t, merged.Merge(part))
			shuffled = shuffled[n:]
		}
		marshal := func(l *Ledger) []byte {
			data, err := proto.MarshalOptions{Deterministic: true}.Marshal(l.Proto())
			require.NoError(t, err)
			return data
		}
		require.Equal(t, marshal(want), marshal(merged))
		again, err := Of(want.Proto())
		require.NoError(t, err)
		require.Equal(t, marshal(want), marshal(again))
		want.Reset()
		require.Equal(t, marshal(New(7)), marshal(want))
	})
}

func TestSums(t *testing.T) {
	l := of([]row{{1, 5, math.MaxUint64, false}, {1, 0, 3, false}, {1, 9, 0, true}, {2, 7, 0, true}})
	require.Equal(t, []int32{1, 2}, l.IDs())
	require.Equal(t, Partition{Rows: 2, Checksum: 2, Refused: 1, First: 0, Next: 10}, l.Partition(1))
	require.Equal(t, Partition{Refused: 1, First: 7, Next: 8}, l.Partition(2))
	require.Equal(t, Partition{}, l.Partition(3))
	require.Equal(t, Partition{Rows: 2, Checksum: 2, Refused: 2}, l.Total())
	require.EqualValues(t, 7, l.Hash())
	require.EqualValues(t, 1, l.Proto().GetPartitions()[1].GetFirstOffset(), "offset 0 is one, and not none")
	require.ErrorIs(t, l.Merge(New(8)), ErrHash)
}

// What the table has too little or too much of is read off, as often as it differs, among any number of rows that
// are equal.
func TestDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		l := New(1)
		for range rapid.IntRange(0, 2000).Draw(t, "equal") {
			h := random.Uint64()
			l.Add(0, 0, h)
			l.Subtract(h)
		}
		differ := rapid.SliceOfNDistinct(rapid.Uint64(), 0, 40, rapid.ID).Draw(t, "differ")
		var missing, extra []uint64
		for _, h := range differ {
			times := rapid.SampledFrom([]int{1, 1, 1, 2, 3, 1000}).Draw(t, "times")
			lacks := rapid.Bool().Draw(t, "lacks")
			for range times {
				if lacks {
					l.Add(0, 0, h)
					missing = append(missing, h)
				} else {
					l.Subtract(h)
					extra = append(extra, h)
				}
			}
		}
		before := l.sketch
		gotMissing, gotExtra, complete := l.Decode()
		require.Equal(t, before, l.sketch)
		for _, s := range [][]uint64{missing, extra, gotMissing, gotExtra} {
			slices.Sort(s)
		}
		// Of 40 differences 2 that have all four cells in common are one case in 20,000; what is not complete is still true.
		if complete || len(differ) < 2 {
			require.True(t, complete)
			require.Equal(t, missing, gotMissing)
			require.Equal(t, extra, gotExtra)
		}
	})
}

// How often so many differences are decoded: what the package comment promises.
func TestCapacity(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	decoded := func(n, tries int) (good int) {
		for range tries {
			l, want := New(1), make([]uint64, n)
			for i := range want {
				want[i] = random.Uint64()
				if i%2 == 0 {
					l.Add(0, 0, want[i])
				} else {
					l.Subtract(want[i])
				}
			}
			missing, extra, complete := l.Decode()
			if complete {
				good++
				require.Len(t, missing, (n+1)/2)
				require.Len(t, extra, n/2)
			}
		}
		return good
	}
	const tries = 4000
	require.GreaterOrEqual(t, decoded(100, tries), tries-8)
	require.GreaterOrEqual(t, decoded(150, tries), tries-20)
	require.Less(t, decoded(400, 100), 1, "far too many are noticed")
}

// The count of a cell wraps around long before a table is full; the difference is read off all the same.
func TestWrapsAround(t *testing.T) {
	l := New(1)
	l.sketch.change(42, math.MaxInt32)
	l.sketch.change(42, math.MaxInt32)
	l.sketch.change(42, math.MaxInt32)
	for range 3 {
		l.sketch.change(42, -math.MaxInt32)
	}
	l.Add(0, 0, 42)
	missing, extra, complete := l.Decode()
	require.True(t, complete)
	require.Equal(t, []uint64{42}, missing)
	require.Empty(t, extra)

	l.sketch.change(43, math.MinInt32)
	_, extra, complete = l.Decode()
	require.False(t, complete, "more than is worth to be named")
	require.Empty(t, extra)
}

func TestRefusesWhatIsNoLedger(t *testing.T) {
	good := of([]row{{0, 0, 1, false}}).Proto()
	for name, spoil := range map[string]func(*eventv1.Ledger){
		"short sketch":        func(m *eventv1.Ledger) { m.Sketch = m.Sketch[:100] },
		"long sketch":         func(m *eventv1.Ledger) { m.Sketch = append(m.Sketch, 0) },
		"newer sketch":        func(m *eventv1.Ledger) { m.Sketch[0]++ },
		"negative offset":     func(m *eventv1.Ledger) { m.Partitions[0].FirstOffset = -1 },
		"offsets turned over": func(m *eventv1.Ledger) { m.Partitions[0].FirstOffset = 5 },
		"one offset":          func(m *eventv1.Ledger) { m.Partitions[0].FirstOffset = 0 },
	} {
		bad := proto.CloneOf(good)
		spoil(bad)
		_, err := Of(bad)
		require.Error(t, err, name)
	}
	l, err := Of(nil)
	require.NoError(t, err)
	require.Equal(t, Partition{}, l.Total())
}

// Whatever bytes there are: an error, or a ledger that can be used and ends.
func FuzzOf(f *testing.F) {
	for _, l := range []*Ledger{New(1), of([]row{{0, 0, 1, false}, {3, 9, math.MaxUint64, false}, {2, 1, 0, true}})} {
		data, err := proto.Marshal(l.Proto())
		require.NoError(f, err)
		f.Add(data)
	}
	full := New(1)
	for i := range 300 {
		full.Add(0, int64(i), uint64(i))
	}
	data, err := proto.Marshal(full.Proto())
	require.NoError(f, err)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		var m eventv1.Ledger
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		l, err := Of(&m)
		if err != nil {
			return
		}
		missing, extra, complete := l.Decode()
		if len(missing)+len(extra) > maxDifferences {
			t.Fatal("too much")
		}
		if complete { // then it is what was said
			var s sketch
			for _, h := range missing {
				s.change(h, 1)
			}
			for _, h := range extra {
				s.change(h, -1)
			}
			if s != l.sketch {
				t.Fatal("complete, and yet not the differences")
			}
		}
		l.Add(1, 1, 1)
		again, err := Of(l.Proto())
		if err != nil {
			t.Fatal(err)
		}
		if again.sketch != l.sketch || again.Total() != l.Total() {
			t.Fatal("not the same when read again")
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	l, h := New(1), uint64(0)
	for b.Loop() {
		h += 0x9e3779b97f4a7c15
		l.Add(3, 1, h)
	}
}
