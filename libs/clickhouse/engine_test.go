package clickhouse

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/clickhouse/clickhousetest"
)

// engine is a sink for a table of a database of its own on the real engine.
func engine(t *testing.T, table, ddl string) *controlv1.ClickHouseSink {
	t.Helper()
	addr, database := clickhousetest.StartDB(t)
	sink := &controlv1.ClickHouseSink{Addr: []string{addr}, Database: database, Table: table}
	if ddl != "" {
		require.NoError(t, run(context.Background(), sink, "CREATE TABLE "+TableName(sink).Quoted()+" "+ddl))
	}
	return sink
}

func inserter(t *testing.T, sink *controlv1.ClickHouseSink) *Inserter {
	t.Helper()
	in, err := NewInserter(sink)
	require.NoError(t, err)
	t.Cleanup(in.Close)
	return in
}

func counted(t *testing.T, sink *controlv1.ClickHouseSink) string {
	t.Helper()
	return ask(t, sink, "SELECT concat(toString(count()), '/', toString(uniqExact(id))) FROM "+TableName(sink).Quoted())
}

const windowed = "(id UInt64, text String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100"

func TestInsertIsRecognisedByItsToken(t *testing.T) {
	sink := engine(t, "a `quoted` table", windowed)
	in := inserter(t, sink)
	ctx := context.Background()
	for range 3 {
		require.NoError(t, in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 1000), Token: "a", QueryID: "q"}))
	}
	require.Equal(t, "1000/1000", counted(t, sink))
	in.Close()
	require.NoError(t, in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 1000), Token: "a", QueryID: "q"}), "over another connection")
	require.Equal(t, "1000/1000", counted(t, sink))
	require.NoError(t, in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 1000), Token: "b", QueryID: "q"}))
	require.Equal(t, "2000/1000", counted(t, sink), "another token is another block, whatever is in it")
	require.True(t, in.Version().AtLeast(26, 2), "the settings of the newest servers are sent: %s", in.Version())
}

func TestInsertCompressed(t *testing.T) {
	sink := engine(t, "t", windowed)
	s, err := dial(context.Background(), endpoint{addr: sink.GetAddr()[0], username: "default"})
	require.NoError(t, err)
	defer s.close()
	s.frames = newFrames(s.out) // on loopback there are none by themselves
	s.block = proto.NewWriter(s.frames, new(proto.Buffer))
	// 300,000 rows are several frames.
	require.NoError(t, s.insert(context.Background(), Insert{Table: TableName(sink), Columns: block(0, 300_000), Token: "a", QueryID: "q"}))
	require.NoError(t, s.insert(context.Background(), Insert{Table: TableName(sink), Columns: block(0, 300_000), Token: "a", QueryID: "q"}))
	require.Equal(t, "300000/300000", counted(t, sink))
}

func TestErrorsOfTheServer(t *testing.T) {
	sink := engine(t, "t", `(id UInt64, text String, CONSTRAINT small CHECK id < 1000) ENGINE = MergeTree ORDER BY id
		PARTITION BY intDiv(id, 2) SETTINGS non_replicated_deduplication_window = 100`)
	ctx := context.Background()
	name := TableName(sink)
	other := []proto.InputColumn{{Name: "nothing", Data: &proto.ColUInt8{1}}}
	for _, c := range []struct {
		what   string
		insert Insert
		class  Class
		reason string
	}{
		{"a constraint", Insert{Table: name, Columns: block(998, 4)}, RejectData, "constraint"},
		{"too many partitions", Insert{Table: name, Columns: block(0, 900)}, Split, "partitions"},
		{"a missing table", Insert{Table: Name{name.Database, "absent"}, Columns: block(0, 1)}, Retry, "does not exist"},
		{"a missing column", Insert{Table: name, Columns: other}, Schema, "column"},
		{"a missing database", Insert{Table: Name{"absent", "t"}, Columns: block(0, 1)}, Retry, "does not exist"},
		{"an unknown setting", Insert{Table: name, Columns: block(0, 1), Settings: map[string]string{"no_such_setting": "1"}}, Retry, "setting"},
		{"a reserved setting", Insert{Table: name, Columns: block(0, 1), Settings: map[string]string{"async_insert": "1"}}, Retry, "configuration"},
	} {
		t.Run(c.what, func(t *testing.T) {
			c.insert.Token, c.insert.QueryID = "t", "q"
			in := inserter(t, sink)
			err := in.Insert(ctx, c.insert)
			require.Error(t, err)
			require.Equal(t, c.class, Classify(err), "%v", err)
			require.Contains(t, Explain(err), c.reason, "%v", err)
		})
	}
	require.Equal(t, "0/0", counted(t, sink))
	in := inserter(t, sink)
	require.ErrorContains(t, in.Insert(ctx, Insert{Table: name, Columns: block(0, 0)}), "empty block")
	require.NoError(t, in.Insert(ctx, Insert{Table: name, Columns: block(0, 10), Token: "t", Settings: map[string]string{"max_partitions_per_insert_block": "5"}}))
	require.Equal(t, "10/10", counted(t, sink))
}

// A column whose type has changed may make good data fail: that is never the data's fault.
func TestChangedColumnIsNotTheDatasFault(t *testing.T) {
	sink := engine(t, "t", "(id UInt64, text UInt8) ENGINE = MergeTree ORDER BY id")
	err := inserter(t, sink).Insert(context.Background(), Insert{Table: TableName(sink), Columns: block(0, 3), QueryID: "q"})
	require.Error(t, err)
	require.Equal(t, Schema, Classify(err), "%v", err)
}

func TestFailOver(t *testing.T) {
	sink := engine(t, "t", windowed)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := dead.Addr().String()
	require.NoError(t, dead.Close())
	rude, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and hangs up
	require.NoError(t, err)
	defer rude.Close()
	go func() {
		for {
			c, err := rude.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	sink.Addr = []string{gone, rude.Addr().String(), sink.GetAddr()[0]}
	require.NoError(t, inserter(t, sink).Insert(context.Background(), Insert{Table: TableName(sink), Columns: block(0, 5), Token: "t", QueryID: "q"}))
	require.Equal(t, "5/5", counted(t, sink), "the control connection fails over, too")
	table, err := Describe(context.Background(), sink)
	require.NoError(t, err)
	require.Contains(t, GuaranteeOf(table).GetReason(), "3 addresses")

	sink.Addr = sink.GetAddr()[:2]
	err = inserter(t, sink).Insert(context.Background(), Insert{Table: TableName(sink), Columns: block(0, 5), Token: "t", QueryID: "q"})
	require.Equal(t, Ambiguous, Classify(err))
	require.ErrorContains(t, err, gone, "each address is named")
	require.ErrorContains(t, err, rude.Addr().String())
}

func TestContextEndsAnInsert(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	defer silent.Close()
	in := inserter(t, &controlv1.ClickHouseSink{Addr: []string{silent.Addr().String()}, Table: "t"})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = in.Insert(ctx, Insert{Table: Name{"d", "t"}, Columns: block(0, 1), QueryID: "q"})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, Ambiguous, Classify(err))
}

func TestDescribe(t *testing.T) {
	sink := engine(t, "t", `(
		id UInt64, at DateTime64(3, 'UTC') DEFAULT now64(3), tags Array(LowCardinality(String)), n Nullable(Int32),
		m UInt64 MATERIALIZED id + 1, a UInt64 ALIAS id + 2, e UInt8 EPHEMERAL 3
	) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 77`)
	table, err := Describe(context.Background(), sink)
	require.NoError(t, err)
	require.True(t, table.Exists)
	require.Equal(t, uint64(77), table.Window)
	require.Equal(t, []string{"id UInt64 ", "at DateTime64(3, 'UTC') now64(3)", "tags Array(LowCardinality(String)) ", "n Nullable(Int32) "}, flat(table.Columns))
	c, ok := table.Column("n")
	require.True(t, ok)
	require.Equal(t, "Nullable(Int32)", c.Type)
	_, ok = table.Column("m")
	require.False(t, ok)
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, GuaranteeOf(table).GetLevel())

	sink.Table, sink.Database = sink.GetDatabase()+".t", ""
	again, err := Describe(context.Background(), sink)
	require.NoError(t, err)
	require.Equal(t, table.Name, again.Name, "db.table")
}

// What is said of each engine, by the real engine's tables.
func TestGuarantees(t *testing.T) {
	sink := engine(t, "base", "(id UInt64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 5")
	db := sink.GetDatabase()
	for _, c := range []struct {
		name, ddl      string
		level          controlv1.Guarantee_Level
		reason, remedy string
	}{
		{"plain", "TABLE %s (id UInt64) ENGINE = MergeTree ORDER BY id", controlv1.Guarantee_AT_LEAST_ONCE,
			"non_replicated_deduplication_window of " + db + ".plain is 0", "ALTER TABLE `" + db + "`.`plain` MODIFY SETTING non_replicated_deduplication_window = 10000, or set_deduplication_window: true"},
		{"replacing", "TABLE %s (id UInt64, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY id SETTINGS non_replicated_deduplication_window = 9", controlv1.Guarantee_EXACTLY_ONCE, "last 9 blocks", ""},
		{"nothing", "TABLE %s (id UInt64) ENGINE = Null", controlv1.Guarantee_AT_LEAST_ONCE, "keeps nothing", "MergeTree"},
		{"memory", "TABLE %s (id UInt64) ENGINE = Memory", controlv1.Guarantee_AT_LEAST_ONCE, "keeps its rows in memory", "MergeTree"},
		{"tiny", "TABLE %s (id UInt64) ENGINE = TinyLog", controlv1.Guarantee_AT_LEAST_ONCE, "Log family", "MergeTree"},
		{"buffer", "TABLE %s (id UInt64) ENGINE = Buffer('" + db + "', 'base', 1, 10, 100, 10, 100, 1000, 10000)", controlv1.Guarantee_AT_LEAST_ONCE, "in memory", db + ".base"},
		{"view", "VIEW %s AS SELECT id FROM `" + db + "`.base", controlv1.Guarantee_AT_LEAST_ONCE, "takes no inserts", "a table"},
		{"mv", "MATERIALIZED VIEW %s TO `" + db + "`.plain AS SELECT id FROM `" + db + "`.replacing", controlv1.Guarantee_AT_LEAST_ONCE, "writes to " + db + ".plain", "MODIFY SETTING"},
		{"mv2", "MATERIALIZED VIEW %s ENGINE = MergeTree ORDER BY id AS SELECT id FROM `" + db + "`.memory", controlv1.Guarantee_AT_LEAST_ONCE, "materialized view", "let the pipeline write to"},
	} {
		require.NoError(t, run(context.Background(), sink, "CREATE "+fmt.Sprintf(c.ddl, Name{db, c.name}.Quoted())), c.name)
		table, err := Describe(context.Background(), &controlv1.ClickHouseSink{Addr: sink.GetAddr(), Database: db, Table: c.name})
		require.NoError(t, err, c.name)
		g := GuaranteeOf(table)
		require.Equal(t, c.level, g.GetLevel(), "%s: %s", c.name, g.GetReason())
		require.Contains(t, g.GetReason(), c.reason, c.name)
		require.Contains(t, g.GetRemedy(), c.remedy, c.name)
	}
	// A table that deduplicates, but feeds a view into one that does not.
	table, err := Describe(context.Background(), &controlv1.ClickHouseSink{Addr: sink.GetAddr(), Database: db, Table: "replacing"})
	require.NoError(t, err)
	g := GuaranteeOf(table)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, g.GetLevel(), g.GetReason())
	require.Contains(t, g.GetReason(), "materialized view "+db+".mv writes to "+db+".plain")
}

func TestSetDeduplicationWindow(t *testing.T) {
	sink := engine(t, "t", "(id UInt64, text String) ENGINE = MergeTree ORDER BY id")
	ctx := context.Background()
	table, err := Describe(ctx, sink)
	require.NoError(t, err)
	require.Zero(t, table.Window)
	require.NoError(t, SetDeduplicationWindow(ctx, sink, table))
	table, err = Describe(ctx, sink)
	require.NoError(t, err)
	require.Equal(t, uint64(DefaultWindow), table.Window)
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, GuaranteeOf(table).GetLevel())
	require.ErrorContains(t, SetDeduplicationWindow(ctx, sink, &Table{Name: table.Name, Engine: "Log"}), "no deduplication window")
}

func TestCreateTableFromSample(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	sink := &controlv1.ClickHouseSink{Addr: []string{addr}, Database: db + "_new", Table: "made"}
	t.Cleanup(func() { _ = run(context.Background(), sink, "DROP DATABASE IF EXISTS "+Quote(db+"_new")+" SYNC") })
	columns, err := InferColumns([][]byte{
		[]byte(`{"id": "e1", "n": 1, "big": 18446744073709551615, "mixed": 1, "f": 1, "ok": true, "at": "2026-01-31T10:00:00.123Z", "tags": ["a"], "gone": null, "nested": {"a": 1}, "deep": [[1],[null]]}`),
		[]byte(`not json`),
		[]byte(`{"id": "e2", "n": -2, "big": 1, "mixed": "x", "f": 1.5, "ok": false, "at": "2026-01-31 10:00:00", "tags": [], "late": 1, "nested": {}, "deep": [], "some": ["x"]}`),
	}, "id")
	require.NoError(t, err)
	want := "id String, n Int64, big UInt64, mixed String, f Float64, ok Bool, at DateTime64(3, 'UTC'), tags Array(String), gone Nullable(String), nested String, deep Array(Array(Nullable(Int64))), late Nullable(Int64), some Array(String) DEFAULT []"
	var got []string
	for _, c := range columns {
		text := c.Name + " " + c.Type
		if c.Default != "" {
			text += " DEFAULT " + c.Default
		}
		got = append(got, text)
	}
	require.Equal(t, want, strings.Join(got, ", "))
	require.NoError(t, CreateTable(context.Background(), sink, columns, []string{"id", "late", "no.such"}))
	require.NoError(t, CreateTable(context.Background(), sink, columns, []string{"id"}), "it may be there")
	table, err := Describe(context.Background(), sink)
	require.NoError(t, err)
	require.Contains(t, table.Full, "ORDER BY (id, late)")
	require.Equal(t, uint64(DefaultWindow), table.Window)
	require.Len(t, table.Columns, len(columns))
	some, _ := table.Column("some")
	require.Equal(t, "[]", some.Default, "an event without it takes the empty array")
	require.NoError(t, KillQuery(context.Background(), sink, "it's not there"))
}

func TestRenderRow(t *testing.T) {
	text, err := RenderRow(block(7, 1))
	require.NoError(t, err)
	require.JSONEq(t, `{"id": 7, "text": "row 7"}`, string(text))
}
