package batch

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func rowsOf(partition int32, rewinds uint32, to int64, offsets ...int64) *View {
	var b Builder
	for _, o := range offsets {
		b.Add(Row{Offset: o}, Fields{})
	}
	v := &View{Partition: partition, Rewinds: rewinds, RewoundTo: to, TopicID: []byte("0123456789abcdef")}
	b.View(v, func(dst []byte) []byte { return dst })
	return v
}

// Batches that come again, cut otherwise, from any earlier place on, in any interleaving of partitions: each row is admitted once.
func TestTakenAdmitsEachRowOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		taken := NewTaken()
		seen := map[[2]int64]int{}
		ends := [3]int64{}
		for range rapid.IntRange(1, 60).Draw(t, "batches") {
			p := rapid.IntRange(0, 2).Draw(t, "partition")
			from := ends[p]
			if rapid.Bool().Draw(t, "back") {
				from = rapid.Int64Range(0, ends[p]).Draw(t, "from")
			}
			var offsets []int64
			for o, n := from, rapid.IntRange(1, 12).Draw(t, "rows"); n > 0; n-- {
				offsets = append(offsets, o)
				o++
			}
			if rapid.Bool().Draw(t, "restart") {
				var err error
				taken, err = TakenOf(taken.Proto())
				if err != nil {
					t.Fatal(err)
				}
			}
			v := rowsOf(int32(p), 0, 0, offsets...)
			before := taken.Before("w", v)
			n := taken.Admit("w", v)
			if before != n || taken.Before("w", v) != v.Rows {
				t.Fatalf("%d before, %d admitted", before, n)
			}
			for _, o := range offsets[n:] {
				seen[[2]int64{int64(p), o}]++
			}
			ends[p] = max(ends[p], offsets[len(offsets)-1]+1)
		}
		for p, end := range ends {
			for o := range end {
				if seen[[2]int64{int64(p), o}] != 1 {
					t.Fatalf("offset %d of partition %d admitted %d times", o, p, seen[[2]int64{int64(p), o}])
				}
			}
		}
	})
}

func TestTakenTellsIncarnationsApart(t *testing.T) {
	taken := NewTaken()
	require.Equal(t, 0, taken.Admit("w", rowsOf(0, 0, 0, 0, 5, 9)))
	require.Equal(t, 0, taken.Admit("other", rowsOf(0, 0, 0, 0, 5, 9)), "another writer's rows are others")
	anew := rowsOf(0, 0, 0, 0, 1)
	anew.TopicID = []byte("another topic id")
	require.Equal(t, 0, taken.Admit("w", anew), "the topic was made anew")
	require.Equal(t, 2, taken.Before("w", rowsOf(0, 0, 0, 5, 9, 10)), "a message of the topic before comes again")
	require.Equal(t, 2, taken.Admit("w", anew))

	// Kafka lost the end from 6 on and gave the offsets out again.
	taken = NewTaken()
	require.Equal(t, 0, taken.Admit("w", rowsOf(0, 0, 0, 4, 5, 6, 7, 8)))
	require.Equal(t, 2, taken.Admit("w", rowsOf(0, 1, 6, 4, 5, 6, 7)), "4 and 5 are what they were")
	require.Equal(t, 5, taken.Before("w", rowsOf(0, 0, 0, 4, 5, 6, 7, 8)))
	require.Equal(t, 1, taken.Admit("w", rowsOf(0, 1, 6, 7, 8)))
	for i := range uint32(5) {
		require.Equal(t, 0, taken.Admit("w", rowsOf(0, i+2, int64(i), 20)))
	}
	require.Len(t, taken.Proto(), incarnations)
	again, err := TakenOf(taken.Proto())
	require.NoError(t, err)
	require.Equal(t, taken, again)
	require.Equal(t, taken, taken.Clone())
}

func TestTakenLeavesOthersAlone(t *testing.T) {
	taken := NewTaken()
	require.Equal(t, 0, taken.Admit("w", &View{}), "progress only")
	require.Equal(t, 0, taken.Admit("w", &View{Rows: 1, Origins: make([]byte, OriginBytes)}))
	require.Empty(t, taken.Proto())
	for _, name := range []string{"", "w", "w//x", "w//1/x", "w//1/2/3", "w//99999999999"} {
		m := NewTaken().Proto()
		m[name] = nil
		_, err := TakenOf(m)
		require.Error(t, err, name)
	}
}

func TestDropFirst(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		rows := 1 + r.IntN(40)
		v := &View{Rows: rows, Selected: rows}
		keep := make([]bool, rows)
		for i := range keep {
			keep[i] = true
		}
		var message []byte
		if r.IntN(2) == 0 {
			v.Selected = 0
			message = make([]byte, (rows+7)/8)
			for i := range keep {
				if keep[i] = r.IntN(2) == 0; keep[i] {
					message[i/8] |= 1 << (i % 8)
					v.Selected++
				}
			}
			v.Selection = message
		}
		n, original, selected := r.IntN(rows+1), append([]byte(nil), message...), v.Selected
		want := 0
		for i := range n {
			if keep[i] {
				want++
			}
		}
		dropped, _ := v.DropFirst(n, nil)
		require.Equal(t, want, dropped)
		require.Equal(t, selected-want, v.Selected)
		for i := range rows {
			require.Equal(t, keep[i] && i >= n, v.Selects(i))
		}
		to := n + r.IntN(rows+1-n)
		dropped, _ = v.DropFrom(to, nil)
		left := 0
		for i := range rows {
			require.Equal(t, keep[i] && i >= n && i < to, v.Selects(i))
			if v.Selects(i) {
				left++
			}
		}
		require.Equal(t, left, v.Selected)
		require.Equal(t, selected-want-left, dropped)
		require.Equal(t, original, append([]byte(nil), message...), "the message is not touched")
	}
}

func BenchmarkTakenAdmit(b *testing.B) {
	taken := NewTaken()
	offsets := make([]int64, 1000)
	for i := range offsets {
		offsets[i] = int64(i)
	}
	v := rowsOf(0, 0, 0, offsets...)
	b.ReportAllocs()
	for b.Loop() {
		taken.Admit("w", v)
		v.FirstOffset += 1000
	}
}

func TestTakenMergeAndAhead(t *testing.T) {
	ours, theirs := NewTaken(), NewTaken()
	ours.Admit("0", rowsOf(0, 0, 0, 5))
	ours.Admit("1", rowsOf(1, 0, 0, 5))
	theirs.Admit("lane", rowsOf(0, 0, 0, 9))
	theirs.Admit("lane", rowsOf(1, 0, 0, 3))
	theirs.Admit("lane", rowsOf(2, 0, 0, 3))
	theirs.Admit("other", rowsOf(3, 0, 0, 3))
	both := ours.Clone()
	both.Merge(theirs, func(writer, _ string, partition int32) (string, bool) {
		return string('0' + partition), writer == "lane"
	})
	ahead := both.Ahead(ours)
	require.Len(t, ahead, 2)
	for _, a := range ahead {
		require.Equal(t, map[int32]int64{0: 10, 2: 4}[a.Partition], a.Next)
	}
	require.Empty(t, ours.Ahead(both))
	require.Equal(t, 1, both.Before("1", rowsOf(1, 0, 0, 5)))
}
