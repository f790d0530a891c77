package native_test

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"testing"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	"sluice/libs/native"
	"sluice/libs/playground/clickhouse/clickhousetest"
)

// notInTables are the families of types that no column of a table that we write to can have.
var notInTables = map[string]string{
	"AggregateFunction": "states are made by ClickHouse only; ParseType refuses it",
	"Nothing":           "ClickHouse refuses it in tables",
}

// TestEngine writes values of every type into a real table of the type that the engine's
// system.columns gives back, and compares what the engine then says they are.
func TestEngine(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)

	t.Run("all families", func(t *testing.T) {
		plain := dial(t, addr, ch.CompressionDisabled)
		tested := map[string]bool{}
		for _, c := range engineCases {
			for _, word := range regexp.MustCompile(`\w+`).FindAllString(c.typ, -1) {
				tested[word] = true
			}
		}
		for _, family := range readStrings(t, plain, "SELECT name FROM system.data_type_families WHERE alias_to = ''") {
			if notInTables[family] == "" {
				require.True(t, tested[family], "no case for the type family %s", family)
			}
		}
	})
	for i, c := range engineCases {
		t.Run(c.typ, func(t *testing.T) {
			plain, packed := dial(t, addr, ch.CompressionDisabled), dial(t, addr, ch.CompressionLZ4)
			table := fmt.Sprintf("%s.t%d", db, i)
			do(t, plain, fmt.Sprintf("CREATE TABLE %s (n UInt32, c %s) ENGINE = MergeTree ORDER BY n", table, c.typ))
			typ, err := native.ParseType(columnType(t, plain, db, i))
			require.NoError(t, err)

			numbers, values := engineBlock(t, typ, c)
			insert(t, plain, table, numbers, values)
			insert(t, packed, table, numbers, values)

			var want []string
			for _, v := range c.values {
				want = append(want, v.out, v.out)
			}
			require.Equal(t, want, readStrings(t, plain, "SELECT CAST(ifNull(toJSONString(c), 'null') AS String) FROM "+table+" ORDER BY n"))
		})
	}
}

// columnType is the type of column c of table i, as the engine spells it.
func columnType(t *testing.T, c *ch.Client, db string, i int) string {
	return readStrings(t, c, fmt.Sprintf("SELECT type FROM system.columns WHERE database = '%s' AND table = 't%d' AND name = 'c'", db, i))[0]
}

// engineBlock takes the values through the wire, the odd rows before the even ones.
func engineBlock(t *testing.T, typ *native.Type, c engineCase) (numbers, values *native.Column) {
	uint32Type, err := native.ParseType("UInt32")
	require.NoError(t, err)
	src := []*native.Column{native.NewColumn(uint32Type, false), native.NewColumn(typ, false)}
	dst := []*native.Column{native.NewColumn(uint32Type, false), native.NewColumn(typ, false)}
	for i, v := range c.values {
		require.NoError(t, src[0].AppendInt(int64(i)))
		require.NoError(t, src[1].AppendJSON(read(t, v.in)), v.in)
	}
	for i := range src {
		wire := src[i].AppendWire(nil)
		for _, pattern := range []byte{0xaa, 0x55} {
			keep := bytes.Repeat([]byte{pattern}, (len(c.values)+7)/8)
			require.NoError(t, dst[i].AppendFromWire(wire, len(c.values), keep))
		}
	}
	return dst[0], dst[1]
}

func dial(t *testing.T, addr string, compression ch.Compression) *ch.Client {
	c, err := ch.Dial(context.Background(), ch.Options{Address: addr, Compression: compression, Settings: []ch.Setting{
		{Key: "allow_suspicious_low_cardinality_types", Value: "1"},
		{Key: "allow_suspicious_variant_types", Value: "1"},
		{Key: "allow_experimental_nullable_tuple_type", Value: "1"},
		{Key: "flatten_nested", Value: "0"},
		{Key: "session_timezone", Value: "UTC"},
		{Key: "async_insert", Value: "0"},
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func do(t *testing.T, c *ch.Client, query string) {
	t.Helper()
	require.NoError(t, c.Do(context.Background(), ch.Query{Body: query}), query)
}

func insert(t *testing.T, c *ch.Client, table string, numbers, values *native.Column) {
	t.Helper()
	require.NoError(t, c.Do(context.Background(), ch.Query{
		Body:  "INSERT INTO " + table + " (n, c) VALUES",
		Input: proto.Input{{Name: "n", Data: numbers}, {Name: "c", Data: values}},
	}))
}

func readStrings(t *testing.T, c *ch.Client, query string) (out []string) {
	t.Helper()
	var col proto.ColStr
	require.NoError(t, c.Do(context.Background(), ch.Query{
		Body:   query,
		Result: proto.ResultColumn{Data: &col},
		OnResult: func(context.Context, proto.Block) error {
			for i := range col.Rows() {
				out = append(out, col.Row(i))
			}
			col.Reset()
			return nil
		},
	}), query)
	return out
}

// TestEngineLargeBlock: blocks whose parts go to the socket as they lie, and dictionaries whose
// numbers take one, two and four bytes.
func TestEngineLargeBlock(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	c := dial(t, addr, ch.CompressionDisabled)
	for i, distinct := range []int64{256, 257, 65536, 65537, 70000} {
		t.Run(fmt.Sprint(distinct), func(t *testing.T) {
			table := fmt.Sprintf("%s.large%d", db, i)
			do(t, c, "CREATE TABLE "+table+" (n UInt32, c Array(LowCardinality(Nullable(String)))) ENGINE = MergeTree ORDER BY n")
			numbers, values := newColumn(t, "UInt32", false), newColumn(t, "Array(LowCardinality(Nullable(String)))", false)
			const rows = 70000
			for n := range int64(rows) {
				require.NoError(t, numbers.AppendInt(n))
				// One key of the dictionary is NULL's.
				require.NoError(t, values.AppendJSON(read(t, fmt.Sprintf(`["v%d", null]`, n%(distinct-1)))))
			}
			insert(t, c, table, numbers, values)
			require.Equal(t, []string{fmt.Sprint(rows)}, readStrings(t, c, fmt.Sprintf(
				"SELECT toString(countIf(c[1] = concat('v', toString(n %% %d)) AND c[2] IS NULL AND length(c) = 2)) FROM %s", distinct-1, table)))
		})
	}
}

// TestEngineLeftJoin: AppendZero is what a LEFT JOIN has for a row that it did not find.
func TestEngineLeftJoin(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	for i, e := range engineCases {
		if e.typ == "Nullable(Enum8('a' = 5))" {
			continue // it is NULL, but the engine looks for the name of the 0 behind that
		}
		t.Run(e.typ, func(t *testing.T) {
			c := dial(t, addr, ch.CompressionDisabled)
			table := fmt.Sprintf("%s.t%d", db, i)
			do(t, c, fmt.Sprintf("CREATE TABLE %s (n UInt32, c %s) ENGINE = MergeTree ORDER BY n", table, e.typ))
			numbers, values := newColumn(t, "UInt32", false), newColumn(t, columnType(t, c, db, i), false)
			numbers.AppendZero()
			values.AppendZero()
			insert(t, c, table, numbers, values)
			const text = "CAST(ifNull(toJSONString(r.c), 'null') AS String)"
			require.Equal(t, readStrings(t, c, "SELECT "+text+" FROM (SELECT toUInt32(1) AS n) AS l LEFT JOIN "+table+" AS r ON l.n = r.n"),
				readStrings(t, c, "SELECT "+text+" FROM "+table+" AS r"))
		})
	}
}
