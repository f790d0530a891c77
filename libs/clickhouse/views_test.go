package clickhouse

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/clickhouse/clickhousetest"
)

// A block that is sent again reaches the table and everything behind its views once, also views of views.
func TestRepeatReachesViewsOnce(t *testing.T) {
	const settings = " SETTINGS non_replicated_deduplication_window = 100"
	sink := engine(t, "t", windowed)
	db, ctx := Quote(sink.GetDatabase()), context.Background()
	for _, sql := range []string{
		"CREATE TABLE " + db + ".copy (id UInt64, text String) ENGINE = MergeTree ORDER BY id" + settings,
		"CREATE MATERIALIZED VIEW " + db + ".v1 TO " + db + ".copy AS SELECT id, text FROM " + db + ".t",
		"CREATE TABLE " + db + ".sums (bucket UInt64, n UInt64) ENGINE = SummingMergeTree ORDER BY bucket" + settings,
		"CREATE MATERIALIZED VIEW " + db + ".v2 TO " + db + ".sums AS SELECT id % 3 AS bucket, count() AS n FROM " + db + ".t GROUP BY bucket",
		"CREATE TABLE " + db + ".far (id UInt64) ENGINE = MergeTree ORDER BY id" + settings,
		"CREATE MATERIALIZED VIEW " + db + ".v3 TO " + db + ".far AS SELECT id FROM " + db + ".copy",
	} {
		require.NoError(t, run(ctx, sink, sql))
	}
	table, err := Describe(ctx, sink)
	require.NoError(t, err)
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, GuaranteeOf(table).GetLevel(), GuaranteeOf(table).GetReason())

	in := inserter(t, sink)
	for round := range 3 { // blocks that make the same aggregates are no repeats of each other
		for range 3 {
			require.NoError(t, in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 30), Token: fmt.Sprint("b", round), QueryID: "q"}))
		}
	}
	want := map[string]string{"t": "90", "copy": "90", "far": "90", "sums": "90"}
	for name, rows := range want {
		count := "count()"
		if name == "sums" {
			count = "sum(n)"
		}
		require.Equal(t, rows, ask(t, sink, "SELECT toString("+count+") FROM "+db+"."+name), name)
	}
}

// What is said of tables behind views, and that what it says to change helps.
func TestGuaranteeOfViews(t *testing.T) {
	sink := engine(t, "t", windowed)
	db, ctx := Quote(sink.GetDatabase()), context.Background()
	guarantee := func() *controlv1.Guarantee {
		table, err := Describe(ctx, sink)
		require.NoError(t, err)
		return GuaranteeOf(table)
	}
	require.EqualValues(t, 100, guarantee().GetDeduplicationWindow())

	// A view with a table of its own.
	require.NoError(t, run(ctx, sink, "CREATE MATERIALIZED VIEW "+db+".own ENGINE = MergeTree ORDER BY id AS SELECT id FROM "+db+".t"))
	g := guarantee()
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, g.GetLevel())
	require.Contains(t, g.GetReason(), ".inner_id.")
	require.NoError(t, run(ctx, sink, g.GetRemedy()), "the remedy is a statement")
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, guarantee().GetLevel())

	// A view of a view, with a smaller window.
	require.NoError(t, run(ctx, sink, "CREATE TABLE "+db+".near (id UInt64) ENGINE = Null"))
	require.NoError(t, run(ctx, sink, "CREATE MATERIALIZED VIEW "+db+".v1 TO "+db+".near AS SELECT id FROM "+db+".t"))
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, guarantee().GetLevel(), "nothing is kept there")
	require.NoError(t, run(ctx, sink, "CREATE TABLE "+db+".far (id UInt64) ENGINE = MergeTree ORDER BY id"))
	require.NoError(t, run(ctx, sink, "CREATE MATERIALIZED VIEW "+db+".v2 TO "+db+".far AS SELECT id FROM "+db+".near"))
	g = guarantee()
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, g.GetLevel())
	require.Contains(t, g.GetReason(), sink.GetDatabase()+".v2 writes to "+sink.GetDatabase()+".far")
	require.NoError(t, run(ctx, sink, "ALTER TABLE "+db+".far MODIFY SETTING non_replicated_deduplication_window = 7"))
	g = guarantee()
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, g.GetLevel(), g.GetReason())
	require.EqualValues(t, 7, g.GetDeduplicationWindow(), "the one that forgets first")
	require.Contains(t, g.GetReason(), "remembers only 7")

	// A view into a table that cannot recognise anything.
	require.NoError(t, run(ctx, sink, "CREATE TABLE "+db+".log (id UInt64) ENGINE = Log"))
	require.NoError(t, run(ctx, sink, "CREATE MATERIALIZED VIEW "+db+".v4 TO "+db+".log AS SELECT id FROM "+db+".t"))
	g = guarantee()
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, g.GetLevel())
	require.Contains(t, g.GetReason(), "a Log table")
}

// The engine is killed when a block is in the table and not yet behind its view. The repeat brings the rest, and only that.
func TestKillBetweenTableAndView(t *testing.T) {
	clickhousetest.Library(t)
	dir, ctx := t.TempDir(), context.Background()
	const settings = " ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"
	addr, kill := startChild(t, dir)
	at := func(addr string) *controlv1.ClickHouseSink {
		return &controlv1.ClickHouseSink{Addr: []string{addr}, Database: "default", Table: "t"}
	}
	for _, sql := range []string{
		"CREATE TABLE t (id UInt64, text String)" + settings,
		"CREATE TABLE copy (id UInt64, text String)" + settings,
		"CREATE MATERIALIZED VIEW v TO copy AS SELECT id, text FROM t WHERE sleepEachRow(0.3) = 0",
	} {
		require.NoError(t, run(ctx, at(addr), sql))
	}
	const rows = 5
	insert := Insert{Table: Name{"default", "t"}, Columns: block(0, rows), Token: "a", QueryID: "q"}
	counts := func(addr string) string {
		return ask(t, at(addr), "SELECT concat(toString((SELECT count() FROM t)), ',', toString((SELECT count() FROM copy)))")
	}
	in := inserter(t, at(addr))
	answer := make(chan error, 1)
	go func() { answer <- in.Insert(ctx, insert) }()
	require.Eventually(t, func() bool { return counts(addr) == "5,0" }, time.Minute, time.Millisecond, "in the table, not behind the view")
	kill()
	require.Equal(t, Ambiguous, Classify(<-answer))

	addr, _ = startChild(t, dir)
	require.Equal(t, "5,0", counts(addr), "the kill fell between the two")
	in = inserter(t, at(addr))
	require.NoError(t, in.Insert(ctx, insert))
	require.Equal(t, "5,5", counts(addr))
	require.NoError(t, in.Insert(ctx, insert))
	require.Equal(t, "5,5", counts(addr))
}
