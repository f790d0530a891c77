package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/native"
)

// sumOf reads the table and adds the hashes of its rows up.
func sumOf(t *testing.T, sink *controlv1.ClickHouseSink, where string, columns ...string) (sum uint64, read Read) {
	t.Helper()
	opened := 0
	var hashes []uint64
	read, err := Scan{
		Table: TableName(sink), Columns: columns, Where: where,
		Opened: func() error { opened++; return nil },
		Rows: func(blocks []*native.Column) error {
			require.Equal(t, 1, opened)
			hashes = native.HashRows(hashes[:0], blocks[0].Rows(), columns, blocks)
			for _, h := range hashes {
				sum += h
			}
			return nil
		},
	}.Run(context.Background(), sink)
	require.NoError(t, err)
	require.Equal(t, 1, opened)
	return sum, read
}

func hashesOf(t *testing.T, first, n int) (sum uint64) {
	t.Helper()
	id, err := native.ParseType("UInt64")
	require.NoError(t, err)
	text, err := native.ParseType("String")
	require.NoError(t, err)
	columns := []*native.Column{native.NewColumn(id, false), native.NewColumn(text, false)}
	for i := first; i < first+n; i++ {
		require.NoError(t, columns[0].AppendInt(int64(i)))
		require.NoError(t, columns[1].AppendString(fmt.Appendf(nil, "row %d", i)))
	}
	for _, h := range native.HashRows(nil, n, []string{"id", "te`xt"}, columns) {
		sum += h
	}
	return sum
}

func TestScan(t *testing.T) {
	sink := engine(t, "a `quoted` table", "(`te``xt` String, id UInt64) ENGINE = MergeTree ORDER BY id")
	sum, read := sumOf(t, sink, "", "id", "te`xt")
	require.Zero(t, sum)
	require.Zero(t, read)

	const rows = 200_000
	ctx := context.Background()
	require.NoError(t, run(ctx, sink, "INSERT INTO "+TableName(sink).Quoted()+" (id, `te``xt`) SELECT number, concat('row ', toString(number)) FROM numbers(200000)"))
	sum, read = sumOf(t, sink, "", "id", "te`xt")
	require.Equal(t, hashesOf(t, 0, rows), sum)
	require.EqualValues(t, rows, read.Rows)
	require.Greater(t, read.Bytes, uint64(rows*12))

	sum, read = sumOf(t, sink, "id >= 100 AND id < 200 -- and no more", "te`xt", "id")
	require.Equal(t, hashesOf(t, 100, 100), sum, "the order of columns does not count")
	require.EqualValues(t, 100, read.Rows)
}

func TestScanEnds(t *testing.T) {
	sink := engine(t, "t", "(id UInt64) ENGINE = MergeTree ORDER BY id")
	ctx := context.Background()
	require.NoError(t, run(ctx, sink, "INSERT INTO "+TableName(sink).Quoted()+" SELECT number FROM numbers(1000000)"))
	enough := errors.New("enough")
	scan := Scan{Table: TableName(sink), Columns: []string{"id"}, Rows: func([]*native.Column) error { return enough }}
	read, err := scan.Run(ctx, sink)
	require.ErrorIs(t, err, enough)
	require.Less(t, read.Rows, uint64(1000000))

	scan.Opened = func() error { return enough }
	scan.Rows = func([]*native.Column) error { t.Error("a row after Opened has failed"); return nil }
	_, err = scan.Run(ctx, sink)
	require.ErrorIs(t, err, enough)

	cancelled, cancel := context.WithCancelCause(ctx)
	scan.Opened, scan.Rows = nil, func([]*native.Column) error { cancel(enough); return nil }
	scan.Table.Table = "numbers_mt"
	scan.Table.Database = "system"
	scan.Columns = []string{"number"}
	_, err = scan.Run(cancelled, sink)
	require.ErrorIs(t, err, enough, "a table without an end")

	scan.Where = "id ="
	_, err = scan.Run(ctx, sink)
	var refused *ServerError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, err.Error(), "read table system.numbers_mt")
}

func TestReadingOf(t *testing.T) {
	sink := engine(t, "plain", "(id UInt64, `TTL` String DEFAULT 'no TTL here') ENGINE = MergeTree ORDER BY id")
	ctx, database := context.Background(), Quote(sink.GetDatabase())
	for _, c := range []struct {
		table, ddl       string
		atomic           bool
		removes, changes string // contained in
	}{
		{"plain", "", true, "", ""},
		{"dated", "TABLE %s.dated (id UInt64, at DateTime) ENGINE = MergeTree ORDER BY id TTL at + INTERVAL 1 DAY", true, "", "has a TTL"},
		{"faded", "TABLE %s.faded (id UInt64, at DateTime, x String TTL at + INTERVAL 1 DAY) ENGINE = MergeTree ORDER BY id", true, "", "has a TTL"},
		{"replaced", "TABLE %s.replaced (id UInt64) ENGINE = ReplacingMergeTree ORDER BY id", true, "ReplacingMergeTree", ""},
		{"collapsed", "TABLE %s.collapsed (id UInt64, sign Int8) ENGINE = VersionedCollapsingMergeTree(sign, id) ORDER BY id", true, "Collapsing", ""},
		{"summed", "TABLE %s.summed (id UInt64, n UInt64) ENGINE = SummingMergeTree ORDER BY id", true, "", "SummingMergeTree"},
		{"nothing", "TABLE %s.nothing (id UInt64) ENGINE = Null", false, "keeps nothing", ""},
		{"remembers", "TABLE %s.remembers (id UInt64) ENGINE = Memory", false, "", ""},
		{"buffered", "TABLE %[1]s.buffered AS %[1]s.dated ENGINE = Buffer(%[1]s, dated, 1, 1, 1, 1, 1, 1, 1)", false, "", "dated has a TTL"},
		{"view", "MATERIALIZED VIEW %[1]s.view ENGINE = SummingMergeTree ORDER BY id AS SELECT id, n FROM %[1]s.summed", false, "", "SummingMergeTree"},
	} {
		if c.ddl != "" {
			require.NoError(t, run(ctx, sink, fmt.Sprintf("CREATE "+c.ddl, database)))
		}
		sink.Table = c.table
		described, err := Describe(ctx, sink)
		require.NoError(t, err)
		r, err := ReadingOf(ctx, sink, described)
		require.NoError(t, err)
		require.Equal(t, c.atomic, r.Atomic, c.table)
		require.False(t, r.Lags)
		for want, got := range map[string][]string{"removes:" + c.removes: r.Removes, "changes:" + c.changes: r.Changes} {
			_, want, _ = strings.Cut(want, ":")
			if want == "" {
				require.Empty(t, got, c.table)
			} else {
				require.Len(t, got, 1, c.table)
				require.Contains(t, got[0], want)
			}
		}
	}
}
