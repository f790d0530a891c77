package native_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/libs/native"
)

// TestAppendJSON compares the bytes in memory, which are ClickHouse's.
func TestAppendJSON(t *testing.T) {
	for _, c := range []struct{ typ, in, wire string }{
		{"Int8", "-1", "ff"},
		{"Int16", "1e2", "6400"},
		{"Int32", `"-2"`, "feffffff"},
		{"Int64", "9007199254740993", "0100000000002000"},
		{"Int64", "-0", "0000000000000000"},
		{"Int64", "1.000", "0100000000000000"},
		{"UInt64", "18446744073709551615", "ffffffffffffffff"},
		{"UInt64", "1844674407370955161.5e1", "ffffffffffffffff"},
		{"UInt8", "false", "00"},
		{"Int128", "-1", strings.Repeat("ff", 16)},
		{"UInt256", "1e3", "e803" + strings.Repeat("00", 30)},
		{"Float32", "1", "0000803f"},
		{"Float64", `"Infinity"`, "000000000000f07f"},
		{"Float64", "0.1", "9a9999999999b93f"},
		{"BFloat16", "1.015", "813f"},
		{"Bool", `"true"`, "01"},
		{"String", `"a\u00e9"`, "0361c3a9"},
		{"String", "1.50", "04312e3530"},
		{"FixedString(3)", `"a"`, "610000"},
		{"Date", `"1970-01-02"`, "0100"},
		{"Date", `"2020\/03\/01"`, "9247"},
		{"Date32", `"1969-12-31"`, "ffffffff"},
		{"DateTime", `"1970-01-01T00:00:01Z"`, "01000000"},
		{"DateTime", `"1970-01-01 01:00:00+0100"`, "00000000"},
		{"DateTime", `"1970-01-02"`, "80510100"},
		{"DateTime", "1.9", "01000000"},
		{"DateTime('Asia/Tokyo')", `"1970-01-01 09:00:01"`, "01000000"},
		{"DateTime64(3)", "1.5", "dc05000000000000"},
		{"DateTime64(3)", "1500", "dc05000000000000"},
		{"DateTime64(3)", `"1970-01-01 00:00:01.5009"`, "dc05000000000000"},
		{"DateTime64(0)", "-1", "ffffffffffffffff"},
		{"Time", `"-00:00:01"`, "ffffffff"},
		{"Decimal(9, 2)", "1.5", "96000000"},
		{"Decimal(9, 2)", "1.500e0", "96000000"},
		{"Decimal(20, 1)", "-0.1", strings.Repeat("ff", 16)},
		{"UUID", `"00000000-0000-0001-0000-000000000002"`, "01000000000000000200000000000000"},
		{"IPv4", `"1.2.3.4"`, "04030201"},
		{"IPv6", `"::1"`, strings.Repeat("00", 15) + "01"},
		{"Enum8('a' = -1)", `"a"`, "ff"},
		{"Enum16('a' = -1)", "-1", "ffff"},
		{"Nullable(UInt8)", "null", "0100"},
		{"Nullable(UInt8)", "", "0100"},
		{"Nullable(Enum8('a' = 7))", "null", "0107"},
		{"Array(UInt8)", "[1,2]", "02000000000000000102"},
		{"Map(String, UInt8)", `{"a":1}`, "0100000000000000016101"},
		{"Tuple(UInt8, UInt8)", "[1,2]", "0102"},
		{"Tuple(a UInt8, b Nullable(UInt8))", `{"a":1}`, "010100"},
		{"LowCardinality(String)", `"a"`, "0161"},
		{"Variant(UInt8, String)", "1", "0101"},
		{"Variant(UInt8, String)", `"1"`, "000131"},
		{"Variant(UInt8, Float32)", "1.0", "000000803f"},
		{"Variant(UInt8, String)", "null", "ff"},
		{"Dynamic", `"a\n"`, "0522615c6e22"},
		{"JSON", `{"a": 1}`, "087b2261223a20317d"},
	} {
		col := newColumn(t, c.typ, false)
		require.NoError(t, col.AppendJSON(read(t, c.in)), "%s into %s", c.in, c.typ)
		require.Equal(t, c.wire, hex.EncodeToString(col.AppendWire(nil)), "%s into %s", c.in, c.typ)
		require.Equal(t, 1, col.Rows())
		require.Equal(t, len(c.wire)/2, col.Size())
	}
}

// TestAppendJSONRefuses also checks that a refused value leaves no trace, wherever in it the fault is.
func TestAppendJSONRefuses(t *testing.T) {
	const datetime64 = `DateTime64(3)`
	for _, c := range []struct{ typ, in, reason string }{
		{"UInt8", "300", "300 does not fit UInt8"},
		{"UInt8", "-1", "-1 does not fit UInt8"},
		{"UInt8", "null", "null in a non-Nullable column"},
		{"UInt8", "", "missing field"},
		{"Int64", "1.5", "1.5 has digits that Int64 would lose"},
		{"Int64", `"abc"`, `"abc" is not an Int64`},
		{"Int64", `""`, `"" is not an Int64`},
		{"Int64", `"1 "`, `"1 " is not an Int64`},
		{"Int64", "9223372036854775808", "9223372036854775808 does not fit Int64"},
		{"Int64", "1e999999999999999999999", "1e999999999999999999999 does not fit Int64"},
		{"Int64", "1e-999999999999999999999", "1e-999999999999999999999 has digits that Int64 would lose"},
		{"Int64", "[1]", "[1] is not an Int64"},
		{"UInt64", "18446744073709551616", "18446744073709551616 does not fit UInt64"},
		{"Int128", "170141183460469231731687303715884105728", "170141183460469231731687303715884105728 does not fit Int128"},
		{"UInt256", "1e78", "1e78 does not fit UInt256"},
		{"UInt256", "-1", "-1 does not fit UInt256"},
		{"Float32", "1e39", "1e39 does not fit Float32"},
		{"Float64", `"0x10"`, `"0x10" is not a Float64`},
		{"Float64", `"1_0"`, `"1_0" is not a Float64`},
		{"Bool", "2", "2 is not a Bool"},
		{"FixedString(2)", `"abc"`, `"abc" is longer than FixedString(2)`},
		{"Date", `"2024-02-30"`, `"2024-02-30" is not a Date`},
		{"Date", `"2024-02-20 10:00:00"`, `"2024-02-20 10:00:00" is not a Date`},
		{"Date", `"1969-12-31"`, `"1969-12-31" does not fit Date`},
		{"Date", `"2149-06-07"`, `"2149-06-07" does not fit Date`},
		{"Date", "65536", "65536 does not fit Date"},
		{"Date32", `"1899-12-31"`, `"1899-12-31" does not fit Date32`},
		{"DateTime", `"abc"`, `"abc" is not a DateTime`},
		{"DateTime", `"2024"`, `"2024" is not a DateTime`},
		{"DateTime", `"2024-01-01 24:00:00"`, `"2024-01-01 24:00:00" is not a DateTime`},
		{"DateTime", `"2024-01-01 00:00:00 x"`, `"2024-01-01 00:00:00 x" is not a DateTime`},
		{"DateTime", `"2024-01-01 00:00:0"`, `"2024-01-01 00:00:0" is not a DateTime`},
		{"DateTime", "-1", "-1 does not fit DateTime"},
		{"DateTime", "4294967296", "4294967296 does not fit DateTime"},
		{"DateTime", `"2106-02-07 06:28:16"`, `"2106-02-07 06:28:16" does not fit DateTime`},
		{"DateTime", "true", "true is not a DateTime"},
		{datetime64, `"1899-12-31 23:59:59.999"`, `"1899-12-31 23:59:59.999" does not fit DateTime64(3)`},
		{datetime64, `"2300-01-01 00:00:00"`, `"2300-01-01 00:00:00" does not fit DateTime64(3)`},
		{datetime64, "1e300", "1e300 does not fit DateTime64(3)"},
		{"DateTime64(9)", `"2262-04-11 23:47:16.854775808"`, `"2262-04-11 23:47:16.854775808" does not fit DateTime64(9)`},
		{"Time", `"1000:00:00"`, `"1000:00:00" is not a Time`},
		{"Time", "3600000", "3600000 does not fit Time"},
		{"Decimal(9, 2)", "1.005", "1.005 has digits that Decimal(9, 2) would lose"},
		{"Decimal(9, 2)", "10000000", "10000000 does not fit Decimal(9, 2)"},
		{"Decimal(76, 0)", "1e76", "1e76 does not fit Decimal(76, 0)"},
		{"UUID", `"61f0c404-5cb3-11e7-907b-a6006ad3dba"`, `"61f0c404-5cb3-11e7-907b-a6006ad3dba" is not a UUID`},
		{"UUID", `"61f0c404-5cb3-11e7-907b-a6006ad3dbag"`, `"61f0c404-5cb3-11e7-907b-a6006ad3dbag" is not a UUID`},
		{"IPv4", `"::1"`, `"::1" is not an IPv4`},
		{"IPv6", `"fe80::1%eth0"`, `"fe80::1%eth0" is not an IPv6`},
		{"Enum8('a' = 1)", `"b"`, `"b" is no value of Enum8('a' = 1)`},
		{"Enum8('a' = 1)", "257", `257 is no value of Enum8('a' = 1)`},
		{"Array(UInt8)", "[1,2,300]", "element 3: 300 does not fit UInt8"},
		{"Array(UInt8)", "[1,null]", "element 2: null in a non-Nullable column"},
		{"Array(UInt8)", "1", "1 is not an array"},
		{"Array(Tuple(a String, b Array(UInt8)))", `[{"a":"x","b":[1]},{"a":"y","b":[2,-1]}]`, `element 2: field "b": element 2: -1 does not fit UInt8`},
		{"Map(UInt8, String)", `{"1":"a","x":"b"}`, `key "x": "x" is not a UInt8`},
		{"Map(String, UInt8)", `{"a":"b"}`, `value of "a": "b" is not a UInt8`},
		{"Map(String, UInt8)", "[]", "[] is not an object, as a Map wants"},
		{"Tuple(UInt8, UInt8)", "[1]", "[1] has 1 elements, the Tuple has 2"},
		{"Tuple(UInt8, UInt8)", "[1,2,3]", "[1,2,3] has 3 elements, the Tuple has 2"},
		{"Tuple(a UInt8, b UInt8)", `{"a":1}`, `field "b": missing field`},
		{"Tuple(a UInt8, b UInt8)", `{"b":1,"b":2,"a":1}`, `field "b" occurs twice`},
		{"Tuple(a UInt8, b UInt8)", `"x"`, `"x" is not an object, as a Tuple with names wants`},
		{"Tuple()", "[1]", "[1] is not a Tuple()"},
		{"Nullable(UInt8)", "256", "256 does not fit UInt8"},
		{"LowCardinality(String)", "null", "null in a non-Nullable column"},
		{"Variant(Array(UInt8), Map(String, UInt8))", `[1,300]`, "[1,300] fits none of the types of Variant(Array(UInt8), Map(String, UInt8))"},
		{"JSON", "[1]", "[1] is not a JSON object"},
		{"QBit(Float32, 2)", "[1]", "[1] has 1 elements, QBit(Float32, 2) has 2"},
		{"String", "null", "null in a non-Nullable column"},
	} {
		col := newColumn(t, c.typ, false)
		before := col.AppendWire(nil)
		err := col.AppendJSON(read(t, c.in))
		var ve *native.ValueError
		require.ErrorAs(t, err, &ve, "%s into %s", c.in, c.typ)
		require.Equal(t, c.reason, ve.Reason, "%s into %s", c.in, c.typ)
		require.Equal(t, 0, col.Rows())
		require.Equal(t, before, col.AppendWire(nil), "%s into %s", c.in, c.typ)
	}
}

func TestLongValuesAreShortened(t *testing.T) {
	err := newColumn(t, "UInt8", false).AppendJSON(read(t, `"`+strings.Repeat("é", 1000)+`"`))
	require.EqualError(t, err, `"`+strings.Repeat("é", 32)+`…" is not a UInt8`)
}

func TestOptional(t *testing.T) {
	src := newColumn(t, "UInt8", true)
	for _, in := range []string{"1", "null", "", "2"} {
		require.NoError(t, src.AppendJSON(read(t, in)))
	}
	require.Error(t, src.AppendJSON(read(t, "300")))
	require.Equal(t, 4, src.Rows())
	require.Equal(t, 2, src.Absent())
	require.ErrorIs(t, src.Prepare(), native.ErrAbsent)

	wire := src.AppendWire(nil)
	all, mask, err := native.PresenceFromWire(wire, 4)
	require.NoError(t, err)
	require.False(t, all)
	require.Equal(t, []byte{0b1001}, mask)

	present := newColumn(t, "UInt8", true)
	require.NoError(t, present.AppendFromWire(wire, 4, mask))
	require.Zero(t, present.Absent())
	require.NoError(t, present.Prepare())
	require.Equal(t, []byte{0, 1, 2}, present.AppendWire(nil))

	src.Truncate(2)
	require.Equal(t, 1, src.Absent())
	require.NoError(t, src.AppendFromWire(wire, 4, nil))
	require.Equal(t, []byte{1, 0b100101, 1, 0, 1, 0, 0, 2}, src.AppendWire(nil))

	// A Nullable column with a DEFAULT: a missing field is the default, null is NULL.
	nullable := newColumn(t, "Nullable(UInt8)", true)
	require.NoError(t, nullable.AppendNull())
	require.NoError(t, nullable.AppendMissing())
	require.Equal(t, 1, nullable.Absent())
}

func TestMetadata(t *testing.T) {
	for _, c := range []struct {
		typ    string
		append func(*native.Column) error
		wire   string
	}{
		{"String", func(c *native.Column) error { return c.AppendString([]byte("\xff\"\\")) }, "03ff225c"},
		{"Dynamic", func(c *native.Column) error { return c.AppendString([]byte("\"\\")) }, "0622" + "5c225c5c" + "22"},
		{"UInt64", func(c *native.Column) error { return c.AppendInt(5) }, "0500000000000000"},
		{"String", func(c *native.Column) error { return c.AppendInt(-5) }, "022d35"},
		{"DateTime", func(c *native.Column) error { return c.AppendTime(1999) }, "01000000"},
		{"Nullable(DateTime64(6))", func(c *native.Column) error { return c.AppendTime(-1) }, "0018fcffffffffffff"},
		{"Date32", func(c *native.Column) error { return c.AppendTime(-1) }, "ffffffff"},
		{"Int64", func(c *native.Column) error { return c.AppendTime(1999) }, "cf07000000000000"},
	} {
		col := newColumn(t, c.typ, false)
		require.NoError(t, c.append(col), c.typ)
		require.Equal(t, c.wire, hex.EncodeToString(col.AppendWire(nil)), c.typ)
	}
}

// TestNoAllocation: what the hot path does with a value allocates nothing once buffers are warm.
func TestNoAllocation(t *testing.T) {
	for typ, in := range map[string]string{
		"Int64": "123456", "UInt256": "5", "Float64": "1.25", "String": `"a\nb"`, "DateTime": `"2024-01-02 03:04:05"`,
		"DateTime64(3, 'Europe/Berlin')": `"2024\/01\/02 03:04:05.678"`, "UUID": `"61f0c404-5cb3-11e7-907b-a6006ad3dba0"`,
		"Decimal(38, 5)": "1.5", "Enum8('a\\'b' = 1)": `"a'b"`, "Nullable(Int8)": "null", "LowCardinality(String)": `"x"`,
		"Array(Array(UInt8))": "[[1],[2]]", "Map(String, Int64)": `{"a":1}`, "Tuple(a Int8, b String)": `{"b":"x","a":1}`,
		"Variant(String, Array(UInt8))": "[1]", "JSON": `{"a":1}`, "IPv6": `"::1"`,
	} {
		col := newColumn(t, typ, false)
		v := read(t, in)
		allocs := testing.AllocsPerRun(100, func() {
			col.Reset()
			for range 3 {
				if err := col.AppendJSON(v); err != nil {
					t.Fatal(err)
				}
			}
		})
		require.Zero(t, allocs, "%s of %s", typ, in)
	}
}

func TestParseType(t *testing.T) {
	for _, typ := range []string{
		"AggregateFunction(sum, UInt64)", "Strin", "", "Array", "Array()", "Array(Int8", "Array(Int8))", "Map(String)", "FixedString(0)",
		"DateTime64(10)", "DateTime('Nowhere/Land')", "Decimal(77, 1)", "Decimal(5, 6)", "Enum8('a' = 200)", "Enum8('a' = 1, 'a' = 2)",
		"Enum8('a' = 1, 'b' = 1)", "Enum8(a)", "Enum8('a", "Tuple(a Int8, Int8)", "LowCardinality(Array(Int8))", "LowCardinality(QBit(Float32, 2))",
		"QBit(Int8, 2)", "QBit(Float32, 0)", "JSON(", strings.Repeat("Array(", 100) + "Int8" + strings.Repeat(")", 100),
	} {
		_, err := native.ParseType(typ)
		require.Error(t, err, typ)
	}
	for typ, nullable := range map[string]bool{"Int8": false, "Nullable(Int8)": true, "LowCardinality(Nullable(String))": true, "Dynamic": true, "Geometry": true, "Array(Nullable(Int8))": false} {
		parsed, err := native.ParseType(typ)
		require.NoError(t, err)
		require.Equal(t, nullable, parsed.Nullable(), typ)
		require.Equal(t, typ, parsed.String())
	}
	_, err := native.ParseType("AggregateFunction(uniq, String)")
	require.ErrorContains(t, err, "materialized view")
}
