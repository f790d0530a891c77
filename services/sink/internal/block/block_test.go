package block

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPlan(t *testing.T) {
	start := time.Unix(1000, 0)
	p := NewPlan(Bounds{Rows: 10, Bytes: 100, MaxDelay: time.Second})
	msg := func(seq uint64, rows, size int, revision uint64) Message {
		return Message{Sequence: seq, Stored: start.Add(time.Duration(seq)), Rows: rows, Bytes: size, Revision: revision}
	}
	require.True(t, p.Empty())
	require.True(t, p.Accepts(msg(5, 99, 999, 1)), "a message that is too large by itself is a block by itself")
	p.Add(msg(5, 4, 40, 1), start)
	require.True(t, p.Accepts(msg(6, 6, 60, 1)))
	require.False(t, p.Accepts(msg(6, 7, 1, 1)), "rows")
	require.False(t, p.Accepts(msg(6, 1, 61, 1)), "bytes")
	require.False(t, p.Accepts(msg(6, 1, 1, 2)), "schema revision")
	require.True(t, p.Accepts(msg(6, 0, 0, 2)), "a message without rows fits anywhere")
	p.Add(msg(6, 0, 0, 2), start.Add(time.Minute))
	require.Equal(t, uint64(1), p.Revision)
	require.Equal(t, start.Add(time.Second), p.Due(), "the first message's age counts")
	require.False(t, p.Full())
	p.Add(msg(9, 6, 1, 1), start)
	require.True(t, p.Full())
	require.Equal(t, []uint64{5, 9}, []uint64{p.First, p.Last})
	require.Equal(t, start.Add(9), p.LastStored)
	p.Reset()
	require.True(t, p.Empty())
	p.Add(msg(10, 0, 0, 1), start)
	require.True(t, p.Accepts(msg(11, 1, 1, 7)), "without rows a block has no revision yet")
}

// Rows that are late in any case may wait for more of them, as long as no other is in the block.
func TestBehind(t *testing.T) {
	start := time.Unix(1000, 0)
	late, other, none := Message{Sequence: 1, Rows: 1, Behind: true}, Message{Sequence: 2, Rows: 1}, Message{Sequence: 3}
	for _, c := range []struct {
		delay, want time.Duration
		messages    []Message
	}{
		{time.Second, 4 * time.Second, []Message{late}},
		{time.Second, 4 * time.Second, []Message{none, late, late, none}},
		{time.Second, time.Second, []Message{late, other}},
		{time.Second, time.Second, []Message{other, late}},
		{time.Second, time.Second, []Message{none}},
		{2 * time.Second, 5 * time.Second, []Message{late}},
		{time.Minute, time.Minute, []Message{late}},
	} {
		p := NewPlan(Bounds{Rows: 100, Bytes: 100, MaxDelay: c.delay})
		for range 2 {
			for i, m := range c.messages {
				p.Add(m, start.Add(time.Duration(i)*time.Hour))
			}
			require.Equal(t, start.Add(c.want), p.Due(), "%v", c)
			p.Reset()
		}
	}
}

func TestTokens(t *testing.T) {
	n := Name{Pipeline: "p", UID: "u1", Table: "db.t", Lane: 3, First: 7, Last: 9}
	require.Equal(t, "sluice/p.u1/db.t/3/7-9", n.Token())
	require.Equal(t, "sluice-p-u1-3-7-9", n.QueryID())
	n.Epoch = 2
	require.Equal(t, "sluice/p.u1/db.t/3/e2/7-9", n.Token())
	require.Equal(t, "sluice-p-u1-3-e2-7-9", n.QueryID())
	n.Content = 0xabc
	require.Equal(t, "sluice/p.u1/db.t/3/e2/7-9/0000000000000abc", n.Token())
	require.Equal(t, "sluice-p-u1-3-e2-7-9", n.QueryID())
	require.Equal(t, "sluice/p.u1/db.t/3/", n.Family())
	g := Group{Rows: 5}
	require.Equal(t, "T", g.Token("T", Range{0, 5}))
	a, b := Range{0, 5}.Halves()
	require.Equal(t, []string{"T/0-2", "T/2-5"}, []string{g.Token("T", a), g.Token("T", b)})
	g.Pattern = "03"
	require.Equal(t, []string{"T/p03", "T/p03/2-5"}, []string{g.Token("T", Range{0, 5}), g.Token("T", b)})
}

// Every kept row is in exactly one part, the one of its pattern, at the place that Index says.
func TestPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.IntRange(1, 40).Draw(t, "rows")
		bitmap := func(name string) []byte {
			mask := make([]byte, (rows+7)/8)
			ones := rapid.SampledFrom([]int{0, 1, 2}).Draw(t, name)
			for i := range rows {
				if ones == 2 || ones == 1 && rapid.Bool().Draw(t, name) {
					mask[i/8] |= 1 << (i % 8)
				}
			}
			return mask
		}
		has := func(mask []byte, row int) bool { return mask == nil || mask[row/8]>>(row%8)&1 == 1 }
		var keep []byte
		if rapid.Bool().Draw(t, "filtered") {
			keep = bitmap("keep")
		}
		kept := 0
		for i := range rows {
			if has(keep, i) {
				kept++
			}
		}
		present := make([][]byte, rapid.IntRange(0, 11).Draw(t, "optional"))
		for i := range present {
			if rapid.Bool().Draw(t, "partial") {
				present[i] = bitmap("present")
			}
		}
		if kept == 0 {
			return
		}
		parts := Partition(rows, keep, kept, present)
		seen := map[int]string{}
		total := 0
		for n, p := range parts {
			if n > 0 && parts[n-1].Pattern >= p.Pattern {
				t.Fatal("not in the order of patterns")
			}
			total += p.Rows
			nth, inPart := 0, 0
			for row := range rows {
				if !has(keep, row) {
					continue
				}
				if has(p.Keep, row) {
					if p.Index != nil && int(p.Index[inPart]) != nth {
						t.Fatalf("row %d is kept row %d, not %d", row, nth, p.Index[inPart])
					}
					inPart++
					if _, twice := seen[row]; twice {
						t.Fatalf("row %d is in two parts", row)
					}
					seen[row] = p.Pattern
					for i := range present {
						if Has(p.Pattern, i) != has(present[i], row) {
							t.Fatalf("row %d, optional column %d: pattern %s", row, i, p.Pattern)
						}
					}
				}
				nth++
			}
			if inPart != p.Rows || p.Index == nil && len(parts) > 1 {
				t.Fatalf("part %s has %d rows, says %d", p.Pattern, inPart, p.Rows)
			}
		}
		if total != kept || len(seen) != kept {
			t.Fatalf("%d of %d rows", len(seen), kept)
		}
	})
}
