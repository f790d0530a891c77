package control

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/clickhouse"
	"sluice/libs/ledger"
	"sluice/libs/native"
	"sluice/libs/spec"
)

func schemaOf(columns ...*controlv1.SchemaColumn) *controlv1.Schema {
	return &controlv1.Schema{Columns: columns}
}

func column(name, typ, otherwise string) *controlv1.SchemaColumn {
	return &controlv1.SchemaColumn{Name: name, Type: typ, DefaultExpression: otherwise}
}

func tableOf(columns ...clickhouse.Column) *clickhouse.Table {
	return &clickhouse.Table{Columns: columns}
}

func TestAuditedColumns(t *testing.T) {
	id, doc := column("id", "UInt32", ""), column("doc", "JSON", "")
	now := []clickhouse.Column{{Name: "id", Type: "UInt64"}, {Name: "doc", Type: "JSON"}, {Name: "at", Type: "DateTime", Default: "now()"}, {Name: "later", Type: "String"}}

	a := auditedColumns([]*controlv1.Schema{
		schemaOf(id, doc, column("at", "DateTime", "now()")),
		schemaOf(column("id", "UInt64", ""), doc, column("at", "DateTime", "now()"), column("later", "LowCardinality(String)", "")),
	}, tableOf(now...))
	require.Empty(t, a.why)
	require.Equal(t, []string{"id", "later"}, a.names, "widened, and come later")
	require.Len(t, a.left, 2)
	require.Contains(t, a.left[0], "column doc is not compared: JSON: ")
	require.Contains(t, a.left[1], "column at is not compared: it has a DEFAULT")

	for want, schemas := range map[string][]*controlv1.Schema{
		"column gone is no longer in the table":       {schemaOf(id, column("gone", "String", ""))},
		"column id was written as String":             {schemaOf(column("id", "String", "")), schemaOf(id)},
		"column id was compared for a time only":      {schemaOf(column("id", "UInt64", "7")), schemaOf(id)},
		"column doc has become JSON":                  {schemaOf(column("doc", "String", ""))},
		"column id was written as Nullable(UInt32)":   {schemaOf(column("id", "Nullable(UInt32)", ""))},
		"column later was written as FixedString(10)": {schemaOf(column("later", "FixedString(10)", ""))},
	} {
		a := auditedColumns(schemas, tableOf(now...))
		require.Len(t, a.why, 1, want)
		require.Contains(t, a.why[0], want)
		names, hashed, err := a.read(tableOf(now...))
		require.NoError(t, err)
		require.Equal(t, []string{"id"}, names)
		require.Zero(t, hashed, "rows are only counted")
	}
	_, _, err := audited{}.read(tableOf(clickhouse.Column{Name: "d", Type: "Dynamic"}))
	require.ErrorContains(t, err, "none of its columns can be read: d")
}

// written is a lane that has written rows with these hashes.
func written(hashes ...uint64) *eventv1.SinkPosition {
	l := ledger.New(native.HashVersion)
	for i, h := range hashes {
		l.Add(0, int64(i), h)
	}
	n := uint64(len(hashes))
	return &eventv1.SinkPosition{Ledger: l.Proto(), Tally: &eventv1.Tally{Records: n, Rows: n}}
}

// held holds a table with rows of these hashes against the states of each lane.
func held(t *testing.T, moving bool, table []uint64, lanes ...[]*eventv1.SinkPosition) (*reading, error) {
	t.Helper()
	m := make(moments, len(lanes))
	for lane, states := range lanes {
		for _, s := range states {
			require.NoError(t, m.add(lane, s))
		}
	}
	r, sketch := &reading{moving: moving}, ledger.New(native.HashVersion)
	for _, h := range table {
		r.rows++
		r.checksum += h
		sketch.Subtract(h)
	}
	return r, m.settle(r, sketch, true)
}

func TestMoments(t *testing.T) {
	type states = []*eventv1.SinkPosition
	first, second := states{written(1), written(1, 2)}, states{written(10), written(10, 20), written(10, 20, 30)}
	for _, table := range [][]uint64{{1, 10}, {1, 2, 10}, {1, 10, 20}, {1, 2, 10, 20, 30}} {
		r, err := held(t, true, table, first, second)
		require.NoError(t, err)
		require.True(t, r.equal(), "%v", table)
	}
	// Nothing that the lanes may have written: the nearest of what they may have tells.
	r, err := held(t, true, []uint64{1, 2, 20, 30, 99}, first, second)
	require.NoError(t, err)
	require.False(t, r.equal())
	require.Equal(t, map[uint64]uint64{10: 1}, r.missing)
	require.Equal(t, map[uint64]uint64{99: 1}, r.extra)

	many := make([]uint64, 2000)
	for i := range many {
		many[i] = uint64(i) * 0x9e3779b97f4a7c15
	}
	_, err = held(t, true, many, first, second)
	require.ErrorIs(t, err, errMoved, "far off while lanes move: nothing can be said")
	r, err = held(t, false, many, first[:1])
	require.NoError(t, err)
	require.False(t, r.equal())
	require.False(t, r.complete)
	require.EqualValues(t, 1, r.written.Rows)

	// A lane whose rows an earlier version has written: rows are counted.
	old := &eventv1.SinkPosition{Tally: &eventv1.Tally{Records: 2, Rows: 2}}
	r, err = held(t, false, []uint64{5, 6, 10}, states{old}, second[:1])
	require.NoError(t, err)
	require.True(t, r.equal())
	require.False(t, r.covers)
	require.Contains(t, r.gap, "lane 0 has no ledger")

	// Too many lanes moved at once.
	var lanes []states
	for range 20 {
		lanes = append(lanes, first)
	}
	_, err = held(t, true, nil, lanes...)
	require.ErrorIs(t, err, errMoved)
}

func TestStill(t *testing.T) {
	idle := positions{lanes: []*eventv1.SinkPosition{written(1), {}}}
	require.True(t, still(idle, idle))
	require.False(t, still(idle, positions{lanes: []*eventv1.SinkPosition{written(1), written(2)}}), "a lane has written")
	later := written(1)
	later.CoveredSequence += 7
	require.True(t, still(idle, positions{lanes: []*eventv1.SinkPosition{later, {CoveredSequence: 3, Tally: &eventv1.Tally{}}}}), "a lane has come past heartbeats")
	refused := written(1)
	refused.Tally.DeadLetters++
	require.False(t, still(idle, positions{lanes: []*eventv1.SinkPosition{refused, {}}}))
	busy := positions{lanes: []*eventv1.SinkPosition{written(1), {Pending: &eventv1.PendingBlock{FirstSequence: 4, LastSequence: 5, Rows: 3}}}}
	require.False(t, still(busy, busy), "a block may be in the table or not")
	require.False(t, still(idle, busy), "a block was begun meanwhile")
	require.EqualValues(t, 3, busy.pending())
	require.Equal(t, "the block of lane 1, messages 4 to 5, of 3 rows", hung(busy, busy))
	next := positions{lanes: []*eventv1.SinkPosition{written(1), {Pending: &eventv1.PendingBlock{FirstSequence: 6}}}}
	require.Empty(t, hung(busy, next))
	require.Empty(t, hung(idle, busy))
}

func TestAudit(t *testing.T) {
	pipeline := &controlv1.Pipeline{Id: "p", Dedup: &controlv1.Dedup{Key: []string{"id"}}}
	balanced := func() *accounts {
		lane := func(t batch.Tally) []laneAccount { return []laneAccount{{covered: 9, end: 9, tally: t}} }
		sink := written(1, 2, 3)
		sink.Tally.Records, sink.Tally.DeadLetters = 4, 1
		l := ledger.New(native.HashVersion)
		for i, h := range []uint64{1, 2, 3} {
			l.Add(0, int64(i), h)
		}
		l.Refuse(0, 3)
		return &accounts{
			partitions: []*partitionAccount{{topic: "t", tally: batch.Tally{Records: 8, Tombstones: 1, DeadLetters: 2, Rows: 5}}},
			lanes: map[string][]laneAccount{
				spec.StageDedup: lane(batch.Tally{Records: 5, Duplicates: 1, Rows: 4}),
				spec.StageSink:  lane(batch.Tally{Records: 4, DeadLetters: 1, Rows: 3}),
			},
			letters: map[string]uint64{spec.StageIngest: 2, spec.StageSink: 1}, lettersAll: true,
			sink: positions{lanes: []*eventv1.SinkPosition{sink}}, ledger: l,
		}
	}
	wrong, underway := balanced().audit(pipeline)
	require.Empty(t, wrong)
	require.Empty(t, underway)
	for want, spoil := range map[string]func(*accounts){
		"partition 0 of topic t: 9 records came in":              func(a *accounts) { a.partitions[0].tally.Records++ },
		"dedup, lane 0: of 6 rows it has passed 4 on":            func(a *accounts) { a.lanes[spec.StageDedup][0].tally.Records++ },
		"sink, lane 0: of 4 rows it has written 2":               func(a *accounts) { a.lanes[spec.StageSink][0].tally.Rows-- },
		"ingest has passed 6 rows on and dedup has taken 5":      func(a *accounts) { a.partitions[0].tally.Records++; a.partitions[0].tally.Rows++ },
		"ingest has refused 2 events and its dead letters are 1": func(a *accounts) { a.letters[spec.StageIngest]-- },
		"sink has refused 1 events and its dead letters are 2":   func(a *accounts) { a.letters[spec.StageSink]++ },
		"passed 5 rows on and 7 of them were written or refused": func(a *accounts) { a.ledger.Add(0, 7, 7); a.ledger.Add(0, 8, 8); a.ledger.Add(0, 9, 9) },
		"dedup has passed 4 rows on and sink has taken 3":        func(a *accounts) { a.lanes[spec.StageSink][0].tally = batch.Tally{Records: 3, Rows: 2, DeadLetters: 1} },
		"source a, partition 0 of topic t: 9 records came in":    func(a *accounts) { a.partitions[0].tally.Records++; a.partitions[0].source = "a" },
		"ingest has refused 2 events and its dead letters are 3": func(a *accounts) { a.letters[spec.StageIngest]++; a.lettersAll = false },
	} {
		a := balanced()
		spoil(a)
		wrong, _ := a.audit(pipeline)
		require.Contains(t, strings.Join(wrong, "\n"), want)
	}
	a := balanced()
	a.lanes[spec.StageSink][0] = laneAccount{covered: 8, end: 9}
	wrong, underway = a.audit(pipeline)
	require.Empty(t, wrong)
	require.Equal(t, "rows are on their way to sink, lane 0", underway)
	a = balanced()
	a.letters[spec.StageIngest], a.lettersAll = 0, false
	wrong, _ = a.audit(pipeline)
	require.Empty(t, wrong, "somebody has removed dead letters")
}
