package native_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/libs/native"
)

// TestConvertedProperty: a value that is converted to its own type is the same.
func TestConvertedProperty(t *testing.T) {
	same := func(t require.TestingT, typ, doc string) {
		parsed, err := native.ParseType(typ)
		require.NoError(t, err)
		want, got := native.NewColumn(parsed, false), native.NewColumn(parsed, false)
		require.NoError(t, want.AppendJSON(read(t, doc)))
		wire := want.AppendWire(nil)
		rest, err := got.AppendConverted(append(wire, "next"...), parsed)
		require.NoError(t, err, doc)
		require.Equal(t, "next", string(rest), typ)
		require.Equal(t, wire, got.AppendWire(nil), "%s %s", typ, doc)
		for n := range wire {
			_, err := got.AppendConverted(wire[:n], parsed)
			require.Error(t, err)
			require.Equal(t, 1, got.Rows())
		}
	}
	for _, c := range engineCases {
		t.Run(c.typ, func(t *testing.T) {
			for _, v := range c.values {
				same(t, c.typ, v.in)
			}
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		g := generate(t, 0)
		same(t, g.typ, g.value.Draw(t, "doc"))
	})
}

// TestConverted: a value becomes what a column of another type reads of it, or does not fit.
func TestConverted(t *testing.T) {
	for _, c := range []struct{ from, doc, to, want, reason string }{
		{"UInt8", "200", "Int64", "200", ""},
		{"Int64", "-5", "Int8", "-5", ""},
		{"Int64", "300", "UInt8", "", "300 does not fit UInt8"},
		{"Int64", "-1", "UInt256", "", "-1 does not fit UInt256"},
		{"Int32", "7", "Float64", "7", ""},
		{"Float64", "1e3", "Int16", "1000", ""},
		{"Float64", "1.5", "Int64", "", "1.5 has digits that Int64 would lose"},
		{"Float32", `"inf"`, "Float64", `"inf"`, ""},
		{"Decimal(9, 3)", "-0.050", "Decimal(38, 2)", "-0.05", ""},
		{"Decimal(9, 3)", "0.055", "Decimal(38, 2)", "", "0.055 has digits that Decimal(38, 2) would lose"},
		{"Int64", "9007199254740993", "String", `"9007199254740993"`, ""},
		{"String", `"9007199254740993"`, "Int64", "9007199254740993", ""},
		{"String", `"a\"b\\\u0001é"`, "LowCardinality(String)", `"a\"b\\\u0001é"`, ""},
		{"String", `"abc"`, "Int64", "", `"abc" is not an Int64`},
		{"FixedString(4)", `"ab"`, "FixedString(2)", `"ab"`, ""},
		{"String", `"abc"`, "FixedString(2)", "", `"abc" is longer than FixedString(2)`},
		{"Nullable(Int64)", "null", "Int64", "", "null in a non-Nullable column"},
		{"Nullable(Int64)", "5", "Int32", "5", ""},
		{"Int64", "5", "Nullable(String)", `"5"`, ""},
		{"Nullable(Int64)", "null", "Nullable(String)", "null", ""},
		{"Enum8('a' = 1, 'b' = 2)", `"b"`, "Enum16('b' = 300)", `"b"`, ""},
		{"Enum8('a' = 1, 'b' = 2)", `"a"`, "Enum16('b' = 300)", "", `"a" is no value of Enum16('b' = 300)`},
		{"Enum8('a' = 1)", `"a"`, "String", `"a"`, ""},
		{"Bool", "true", "UInt8", "1", ""},
		{"DateTime('Europe/Berlin')", `"2024-10-27T00:30:00Z"`, "DateTime64(3, 'Asia/Tokyo')", `"2024-10-27T00:30:00Z"`, ""},
		{"DateTime64(3)", `"1969-12-31 23:59:59.001"`, "DateTime64(6)", `"1969-12-31 23:59:59.001"`, ""},
		{"DateTime64(3)", `"1969-12-31 23:59:59.001"`, "String", `"1969-12-31 23:59:59.001Z"`, ""},
		{"DateTime64(3)", `"1969-12-31 23:59:59"`, "DateTime", "", `"1969-12-31 23:59:59.000Z" does not fit DateTime`},
		{"Date", `"2024-02-29"`, "DateTime", `"2024-02-29 00:00:00"`, ""},
		{"Date32", `"1900-01-01"`, "Date", "", `"1900-01-01" does not fit Date`},
		{"Time", `"-01:02:03"`, "Time64(3)", `"-01:02:03"`, ""},
		{"IPv4", `"1.2.3.4"`, "IPv6", `"::ffff:1.2.3.4"`, ""},
		{"UUID", `"61f0c404-5cb3-11e7-907b-a6006ad3dba0"`, "String", `"61f0c404-5cb3-11e7-907b-a6006ad3dba0"`, ""},
		{"Array(UInt8)", "[1,2]", "Array(String)", `["1","2"]`, ""},
		{"Array(Int64)", "[1,300]", "Array(UInt8)", "", "element 2: 300 does not fit UInt8"},
		{"Map(UInt8, String)", `{"1":"2"}`, "Map(String, UInt8)", `{"1":2}`, ""},
		{"Tuple(a UInt8, b String)", `{"a":1,"b":"x"}`, "Tuple(b String, a Int64, c Nullable(String))", `{"a":1,"b":"x"}`, ""},
		{"Array(Tuple(UInt8, Array(String)))", `[[1,["x"]],[2,[]]]`, "Array(Tuple(Int64, Array(LowCardinality(String))))", `[[1,["x"]],[2,[]]]`, ""},
		{"Variant(String, UInt8)", "5", "Int64", "5", ""},
		{"Int64", "5", "Dynamic", "5", ""},
		{"String", `"a\"b"`, "Dynamic", `"a\"b"`, ""},
	} {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			from := newColumn(t, c.from, false)
			require.NoError(t, from.AppendJSON(read(t, c.doc)))
			got := newColumn(t, c.to, false)
			rest, err := got.AppendConverted(append(from.AppendWire(nil), "next"...), from.DataType())
			require.Equal(t, "next", string(rest))
			if c.reason != "" {
				var unfit *native.ValueError
				require.ErrorAs(t, err, &unfit)
				require.Equal(t, c.reason, unfit.Reason)
				require.Zero(t, got.Rows())
				return
			}
			require.NoError(t, err)
			want := newColumn(t, c.to, false)
			require.NoError(t, want.AppendJSON(read(t, c.want)))
			require.Equal(t, want.AppendWire(nil), got.AppendWire(nil))
		})
	}
}
