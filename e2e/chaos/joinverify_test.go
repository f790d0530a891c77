package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/batch"
)

// sidesOf is: a left event that meets two, one that meets one at the very end of the window, one that meets nobody, one without a key; right events
// of which one is just too far away, and one without a key.
func sidesOf(t *testing.T) (*Sides, []Joined) {
	t.Helper()
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	s := &Sides{
		left: map[Place]JoinEvent{
			{0, 0}: {ID: 1, N: 1, User: 7, At: at(0)},
			{0, 1}: {ID: 2, N: 2, User: 8, At: at(0)},
			{1, 0}: {ID: 3, N: 3, User: 9, At: at(0)},
			{1, 1}: {ID: 4, N: 4, At: at(0)},
		},
		right: map[Place]JoinEvent{
			{0, 0}: {Right: true, N: 5, User: 7, At: at(time.Second)},
			{0, 1}: {Right: true, N: 6, User: 7, At: at(-time.Second)},
			{0, 2}: {Right: true, N: 7, User: 8, At: at(joinWindow)},
			{0, 3}: {Right: true, N: 8, User: 8, At: at(joinWindow + time.Millisecond)},
			{0, 4}: {Right: true, N: 9, At: at(0)},
		},
	}
	s.match()
	require.Equal(t, Counts{RowsOut: 5, Matched: 2, Unmatched: 2, Dropped: 2}, s.Counts())
	var rows []Joined
	for _, p := range []Pair{
		{Place{0, 0}, Place{0, 0}}, {Place{0, 0}, Place{0, 1}}, {Place{0, 1}, Place{0, 2}}, {Place{1, 0}, nowhere}, {Place{1, 1}, nowhere},
	} {
		require.Contains(t, s.want, p)
		l := s.left[p.Left]
		row := Joined{ID: l.ID, N: l.N, Text: l.Text(), At: l.At, Left: p.Left, RightText: "nobody", Right: p.Right}
		if l.User > 0 {
			row.User = new(userName(l.User))
		}
		if p.Right != nowhere {
			r := s.right[p.Right]
			row.RightN, row.RightText, row.RightAt = &r.N, r.Text(), &r.At
		}
		rows = append(rows, row)
	}
	return s, rows
}

// The verdict sees each way in which a table of a join can differ.
func TestJoinVerdict(t *testing.T) {
	for _, c := range []struct {
		name                  string
		change                func([]Joined) []Joined
		lost, repeated, wrong uint64
	}{
		{name: "equal", change: func(rows []Joined) []Joined { return rows }},
		{name: "order is nothing", change: func(rows []Joined) []Joined { slices.Reverse(rows); return rows }},
		{name: "a pair is missing", change: func(rows []Joined) []Joined { return rows[1:] }, lost: 1},
		{name: "one that met nobody is missing", change: func(rows []Joined) []Joined { return rows[:4] }, lost: 1},
		{name: "a pair twice", change: func(rows []Joined) []Joined { return append(rows, rows[1]) }, repeated: 1},
		{name: "one that met nobody twice", change: func(rows []Joined) []Joined { return append(rows, rows[3]) }, repeated: 1},
		{name: "alone although it met somebody", change: func(rows []Joined) []Joined {
			row := rows[2]
			row.RightN, row.RightText, row.RightAt, row.Right = nil, "nobody", nil, nowhere
			return append(rows, row)
		}, wrong: 1},
		{name: "beyond the window", change: func(rows []Joined) []Joined { rows[2].Right = Place{0, 3}; return rows }, lost: 1, wrong: 1},
		{name: "a later copy", change: func(rows []Joined) []Joined { rows[4].Left = Place{1, 2}; return rows }, lost: 1, wrong: 1},
		{name: "another text", change: func(rows []Joined) []Joined { rows[0].RightText = "x"; return rows }, wrong: 1},
		{name: "another time", change: func(rows []Joined) []Joined { rows[0].At = rows[0].At.Add(1); return rows }, wrong: 1},
		{name: "another key", change: func(rows []Joined) []Joined { rows[0].User = rows[2].User; return rows }, wrong: 1},
		{name: "a key where there is none", change: func(rows []Joined) []Joined { rows[4].User = rows[0].User; return rows }, wrong: 1},
		{name: "something of nobody", change: func(rows []Joined) []Joined { rows[4].RightN = rows[0].RightN; return rows }, wrong: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			sides, rows := sidesOf(t)
			v := newJoinVerdict(sides)
			for _, r := range c.change(rows) {
				v.Add(r)
			}
			v.Finish()
			require.Equal(t, []uint64{c.lost, c.repeated, c.wrong}, []uint64{v.Lost, v.Repeated, v.Wrong})
			require.Equal(t, c.lost+c.repeated+c.wrong == 0, v.Exact())
			require.Equal(t, v.Exact(), len(v.offending) == 0)
		})
	}
}

// The events have what the run is about: duplicates, left rows that meet nobody, one and several, both without a key; in order within less than
// grace. What is written is what is read, and the last events decide all.
func TestJoinEvents(t *testing.T) {
	feed, again := newJoinFeed(5, 500), newJoinFeed(5, 500)
	s := &Sides{left: map[Place]JoinEvent{}, right: map[Place]JoinEvent{}}
	known := map[uint64]Record{}
	copies, nobody := 0, 0
	var latest time.Time
	for n := range 20_000 {
		e := feed.Next()
		require.Equal(t, e, again.Next())
		r := e.Record()
		got, err := parseJoinEvent(e.Right, r.Value)
		require.NoError(t, err)
		if e.Right {
			got.ID = e.ID // which it does not have
		}
		require.Equal(t, e, got)
		require.Less(t, latest.Sub(e.At), joinGrace/10)
		if latest.Before(e.At) {
			latest = e.At
		}
		if e.User == 0 {
			nobody++
		}
		first, dup := known[e.ID]
		switch {
		case e.Right:
			s.right[Place{0, int64(n)}] = e
		case dup:
			copies++
			require.Equal(t, first.Partition, r.Partition)
		default:
			known[e.ID] = r
			s.left[Place{0, int64(n)}] = e
		}
	}
	s.match()
	c := s.Counts()
	require.InDelta(t, 2500, copies, 250)
	require.InDelta(t, 200, nobody, 80)
	require.Greater(t, c.Unmatched, c.Matched/10)
	require.Greater(t, c.Dropped, uint64(1000))
	require.Greater(t, c.RowsOut-c.Unmatched, c.Matched*5/4, "several each")
	last := (&joinJob{feed: feed}).Last()
	require.Len(t, last, int(leftTopic.Partitions+rightTopic.Partitions))
	for _, r := range last {
		e, err := parseJoinEvent(r.Topic == rightTopic.Name, r.Value)
		require.NoError(t, err)
		require.Zero(t, e.User)
		require.Greater(t, e.At.Sub(latest), joinGrace+joinWindow)
	}
}

// A record's way is found in all logs, and in the join's by either side.
func TestPath(t *testing.T) {
	require.Equal(t, []string{"ingest", "dedup", "join"}, logsOf(joinStages))
	tap := &Tap{logs: logsOf(joinStages), messages: map[string][]tapped{
		"ingest": {
			{sequence: 1, source: "orders", partition: 2, first: 10, rows: []byte{0<<1 | 1, 2 << 1}},
			{sequence: 2, source: "users", partition: 2, first: 12, rows: []byte{1}},
		},
		"join": {{sequence: 3, lane: "0", origins: originsOf(Pair{Place{2, 12}, Place{1, 4}}, Pair{Place{2, 10}, nowhere})}},
	}, blocks: []string{"$KV.x.sink.0.position: sending 3-3 of 2 rows"}}
	for _, c := range []struct {
		source string
		at     Place
		want   []string
	}{
		{"orders", Place{2, 10}, []string{"row 0, selected true", "row 1, left 2:10 alone", "sink: "}},
		{"orders", Place{2, 12}, []string{"row 1, selected false", "row 0, left 2:12 with right 1:4", "sink: "}},
		{"users", Place{2, 12}, []string{"row 0, selected true"}},
		{"users", Place{1, 4}, []string{"row 0, left 2:12 with right 1:4", "sink: "}},
		{"orders", Place{1, 4}, []string{"seen in no log"}},
	} {
		path := tap.Path(c.source, c.at)
		require.Len(t, path, len(c.want), "%v", path)
		for i, line := range path {
			require.Contains(t, line, c.want[i])
		}
	}
}

func originsOf(pairs ...Pair) (out []byte) {
	for _, p := range pairs {
		out = batch.AppendOrigin(out, batch.Origin{
			LeftPartition: p.Left.Partition, LeftOffset: p.Left.Offset, RightPartition: p.Right.Partition, RightOffset: p.Right.Offset,
		})
	}
	return out
}

// The definition of each kind of join, by one left row and the right ones of its key.
func TestPartners(t *testing.T) {
	at := map[Place]JoinEvent{}
	var rights []Place
	for i, d := range []time.Duration{-joinWindow - 1, -joinWindow, -5 * time.Second, -time.Second, -time.Second, 3 * time.Second, 3 * time.Second, joinWait, joinWindow, joinWindow + 1} {
		p := Place{0, int64(i)}
		at[p] = JoinEvent{Right: true, At: epoch.Add(d)}
		rights = append(rights, p)
	}
	of := func(k joinKind, rights []Place) (offsets []int64) {
		for _, p := range k.partners(JoinEvent{At: epoch}, rights, func(p Place) JoinEvent { return at[p] }) {
			offsets = append(offsets, p.Offset)
		}
		return offsets
	}
	lookup := joinKind{Lookup: true}
	require.Equal(t, []int64{1, 2, 3, 4, 5, 6, 7, 8}, of(joinKind{}, rights))
	require.Equal(t, []int64{4}, of(lookup, rights))
	require.Equal(t, []int64{1}, of(lookup, rights[:2]))
	require.Equal(t, []int64{6}, of(lookup, rights[5:]))
	require.Equal(t, []int64{7}, of(lookup, rights[7:]))
	require.Empty(t, of(lookup, rights[8:]))
	require.Empty(t, of(lookup, rights[:1]))

	k, err := kindOf("lookup", "", "true", 5)
	require.NoError(t, err)
	require.Equal(t, joinKind{Lookup: true, Both: true}, k)
	k, err = kindOf("", "", "", 3)
	require.NoError(t, err)
	require.Equal(t, joinKind{Lookup: true, Inner: true}, k)
	_, err = kindOf("", "OUTER", "", 3)
	require.ErrorContains(t, err, `-type "OUTER": want LEFT or INNER`)
}
