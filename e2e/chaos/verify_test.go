package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// truthOf is of three events; the first was sent twice.
func truthOf(t *testing.T) (*Events, []Row) {
	t.Helper()
	truth := &Events{Records: 4, First: []Copy{{}, {1, Place{0, 0}}, {3, Place{1, 0}}, {4, Place{0, 2}}}}
	require.EqualValues(t, 3, truth.IDs())
	var rows []Row
	for id, c := range truth.First[1:] {
		e := Event{ID: uint64(id + 1), N: c.N}
		rows = append(rows, Row{e.ID, e.N, e.Text(), c.Partition, c.Offset})
	}
	return truth, rows
}

// The verdict sees each way in which a table can differ.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name                  string
		change                func([]Row) []Row
		lost, repeated, wrong uint64
	}{
		{name: "equal", change: func(rows []Row) []Row { return rows }},
		{name: "order is nothing", change: func(rows []Row) []Row { return []Row{rows[2], rows[0], rows[1]} }},
		{name: "a row is missing", change: func(rows []Row) []Row { return rows[1:] }, lost: 1},
		{name: "a row twice", change: func(rows []Row) []Row { return append(rows, rows[1]) }, repeated: 1},
		{name: "one missing and one twice", change: func(rows []Row) []Row { return []Row{rows[0], rows[1], rows[1]} }, lost: 1, repeated: 1},
		{name: "the later copy", change: func(rows []Row) []Row {
			rows[0] = Row{1, 2, Event{ID: 1, N: 2}.Text(), 0, 1}
			return rows
		}, wrong: 1},
		{name: "both copies", change: func(rows []Row) []Row {
			return append(rows, Row{1, 2, Event{ID: 1, N: 2}.Text(), 0, 1})
		}, repeated: 1, wrong: 1},
		{name: "another text", change: func(rows []Row) []Row { rows[1].Text = "x"; return rows }, wrong: 1},
		{name: "another offset", change: func(rows []Row) []Row { rows[1].Offset++; return rows }, wrong: 1},
		{name: "an event that never was", change: func(rows []Row) []Row { return append(rows, Row{ID: 9, N: 9}) }, wrong: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			truth, rows := truthOf(t)
			v := newDedupVerdict(truth)
			for _, r := range c.change(rows) {
				v.Add(r)
			}
			v.Finish()
			require.Equal(t, c.lost+c.repeated+c.wrong == 0, v.Exact())
			require.Equal(t, []uint64{c.lost, c.repeated, c.wrong}, []uint64{v.Lost, v.Repeated, v.Wrong})
			require.Equal(t, c.lost+c.repeated+c.wrong == 0, len(v.offending) == 0)
		})
	}
}

// What is written is what is read, and copies of an event meet in one partition.
func TestEvents(t *testing.T) {
	feed, copies := newFeed(5), 0
	seen := map[uint64]bool{}
	for range 10_000 {
		e := feed.Next()
		if seen[e.ID] {
			copies++
		}
		seen[e.ID] = true
		got, err := parseEvent(e.JSON())
		require.NoError(t, err)
		require.Equal(t, e, got)
		require.Equal(t, Event{ID: e.ID}.Partition(partitions), e.Partition(partitions))
	}
	require.InDelta(t, 2500, copies, 250)
	for _, bad := range []string{"", "{}", `{"id":1,"n":2}`, `{"id":x,"n":2,"text":""}`, `{"id":1,"n":-2,"text":""}`} {
		_, err := parseEvent([]byte(bad))
		require.Error(t, err, "%s", bad)
	}
}
