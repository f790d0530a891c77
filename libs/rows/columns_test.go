package rows

import (
	"bytes"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	"sluice/libs/native"
)

// decode reads a column back by ch-go, as a ClickHouse server would.
func decode[T any](t *testing.T, c *native.Column, into proto.ColumnOf[T]) (values []T) {
	t.Helper()
	require.NoError(t, c.Prepare())
	var b proto.Buffer
	c.EncodeColumn(&b)
	require.NoError(t, into.DecodeColumn(proto.NewReader(bytes.NewReader(b.Buf)), c.Rows()))
	for i := range c.Rows() {
		values = append(values, into.Row(i))
	}
	return values
}

func appendRecord(t *testing.T, p *Parser, columns []*native.Column, rec Record) *Reject {
	t.Helper()
	_, reject := p.Parse(rec)
	require.Nil(t, reject)
	return p.AppendTo(columns)
}

func TestColumnsFromJSON(t *testing.T) {
	p := newParser(t, columnsOf(
		"id|UInt64", "name|String", "city|Nullable(String)|user.address.city", "n|Int32||7", "at|DateTime64(3)",
	), nil)
	columns := p.plan.NewColumns()
	for _, value := range []string{
		`{"id":18446744073709551615,"name":"caf\u00e9","user":{"address":{"city":"Łódź"}},"n":-1,"at":"2026-01-31T12:34:56.789Z"}`,
		`{"name":"","at":1769862896789,"id":0,"user":null}`,
	} {
		require.Nil(t, appendRecord(t, p, columns, record(value)))
	}
	require.Equal(t, []uint64{1<<64 - 1, 0}, decode(t, columns[0], new(proto.ColUInt64)))
	require.Equal(t, []string{"café", ""}, decode(t, columns[1], new(proto.ColStr)))
	require.Equal(t, []proto.Nullable[string]{proto.NewNullable("Łódź"), proto.Null[string]()},
		decode(t, columns[2], proto.NewColNullable(new(proto.ColStr))))
	require.Equal(t, 1, columns[3].Absent())
	columns[3].Truncate(1)
	require.Equal(t, []int32{-1}, decode(t, columns[3], new(proto.ColInt32)))
	at := time.UnixMilli(1769862896789).UTC()
	for _, got := range decode(t, columns[4], new(proto.ColDateTime64).WithPrecision(3).WithLocation(time.UTC)) {
		require.True(t, at.Equal(got), got)
	}
}

func TestColumnsFromMetadata(t *testing.T) {
	p := newParser(t, columnsOf(
		"topic|LowCardinality(String)|$topic", "part|Int32|$partition", "off|UInt64|$offset",
		"t|DateTime|$timestamp", "t64|Nullable(DateTime64(6))|$timestamp", "ms|Int64|$timestamp", "day|Date|$timestamp",
		"key|String|$key", "nkey|Nullable(String)|$key", "trace|String|$header.trace-id", "ntrace|Nullable(String)|$header.trace-id",
		"num|Int64|$header.n|5", "plain|String|plain",
	), nil)
	require.True(t, p.plan.NeedsHeaders())
	columns := p.plan.NewColumns()

	full := record(`{"plain":"$topic"}`)
	full.Key = []byte("\xff\"\\key")
	full.Headers = []Header{{[]byte("trace-id"), []byte("old")}, {[]byte("n"), []byte("-12")}, {[]byte("trace-id"), []byte("abc")}}
	require.Nil(t, appendRecord(t, p, columns, full))
	bare := record(`{"plain":""}`)
	require.Nil(t, appendRecord(t, p, columns, bare))

	require.Equal(t, []int32{3, 3}, decode(t, columns[1], new(proto.ColInt32)))
	require.Equal(t, []uint64{42, 42}, decode(t, columns[2], new(proto.ColUInt64)))
	require.EqualValues(t, 1769862896, decode(t, columns[3], new(proto.ColDateTime))[0].Unix())
	require.EqualValues(t, 1769862896789, decode(t, columns[4], proto.NewColNullable(new(proto.ColDateTime64).WithPrecision(6)))[0].Value.UnixMilli())
	require.Equal(t, []int64{1769862896789, 1769862896789}, decode(t, columns[5], new(proto.ColInt64)))
	require.Equal(t, "2026-01-31", decode(t, columns[6], new(proto.ColDate))[0].Format(time.DateOnly))
	require.Equal(t, []string{"\xff\"\\key", ""}, decode(t, columns[7], new(proto.ColStr)))
	require.Equal(t, []proto.Nullable[string]{proto.NewNullable("\xff\"\\key"), proto.Null[string]()},
		decode(t, columns[8], proto.NewColNullable(new(proto.ColStr))))
	require.Equal(t, []string{"abc", ""}, decode(t, columns[9], new(proto.ColStr)))
	require.Equal(t, []proto.Nullable[string]{proto.NewNullable("abc"), proto.Null[string]()},
		decode(t, columns[10], proto.NewColNullable(new(proto.ColStr))))
	require.Equal(t, 1, columns[11].Absent())
	columns[11].Truncate(1)
	require.Equal(t, []int64{-12}, decode(t, columns[11], new(proto.ColInt64)))
	require.Equal(t, []string{"$topic", ""}, decode(t, columns[12], new(proto.ColStr)))
	require.NoError(t, columns[0].Prepare())
	require.Equal(t, 2, columns[0].Rows())
}

func TestRefusedMetadata(t *testing.T) {
	p := newParser(t, columnsOf("id|Int64", "at|DateTime|$timestamp", "d|Dynamic|$key"), nil)
	columns := p.plan.NewColumns()
	rec := record(`{"id":1}`)
	rec.TimestampMS = -1
	reject := appendRecord(t, p, columns, rec)
	require.Equal(t, "$timestamp", reject.Field)
	rec.TimestampMS = 5000
	rec.Key = []byte("\xff")
	require.Equal(t, &Reject{"$key", `column "d": invalid UTF-8 does not fit the type Dynamic`}, appendRecord(t, p, columns, rec))
	rec.Key = []byte(`a"b\c`)
	require.Nil(t, appendRecord(t, p, columns, rec))
	for _, c := range columns {
		require.Equal(t, 1, c.Rows())
		require.NoError(t, c.Prepare())
	}
}

// A row that any column refuses must leave no trace in the others, at whatever column it happens.
func TestRowsAreAppendedWholeOrNotAtAll(t *testing.T) {
	p := newParser(t, columnsOf(
		"a|UInt8", "b|Array(Nullable(Int8))", "c|LowCardinality(Nullable(String))", "d|Map(String, UInt8)", "e|Nullable(DateTime)", "f|UInt8||1",
	), nil)
	columns := p.plan.NewColumns()
	const good = `{"a":1,"b":[1,null],"c":"x","d":{"k":1},"e":null}`
	for _, bad := range []struct{ field, value string }{
		{"a", `{"a":256,"b":[1,null],"c":"x","d":{"k":1},"e":null}`},
		{"a", `{"b":[1,null],"c":"x","d":{"k":1},"e":null}`},
		{"b", `{"a":2,"b":[1,null,1000],"c":"x","d":{"k":1},"e":null}`},
		{"d", `{"a":2,"b":[],"c":"other","d":{"k":1,"l":-1},"e":null}`},
		{"e", `{"a":2,"b":[5],"c":"more","d":{},"e":"never"}`},
		{"f", `{"a":2,"b":[5],"c":null,"d":{},"e":1,"f":"x"}`},
	} {
		before := columns[0].Rows()
		var wire [][]byte
		for _, c := range columns {
			wire = append(wire, c.AppendWire(nil))
		}
		reject := appendRecord(t, p, columns, record(bad.value))
		require.NotNil(t, reject, bad.value)
		require.Equal(t, bad.field, reject.Field)
		require.NotEmpty(t, reject.Reason)
		for i, c := range columns {
			require.Equal(t, before, c.Rows())
			require.Equal(t, wire[i], c.AppendWire(nil))
		}
		require.Nil(t, appendRecord(t, p, columns, record(good)))
	}
	require.Equal(t, []uint8{1, 1, 1, 1, 1, 1}, decode(t, columns[0], new(proto.ColUInt8)))
}

func TestRejectNamesTheColumnToo(t *testing.T) {
	p := newParser(t, columnsOf("age|UInt8|user.age"), nil)
	reject := appendRecord(t, p, p.plan.NewColumns(), record(`{"user":{"age":-1}}`))
	require.Equal(t, "user.age", reject.Field)
	require.Contains(t, reject.Reason, `column "age": `)
	require.Contains(t, reject.Reason, "-1")
}
