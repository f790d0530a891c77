package native_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/libs/native"
)

func hashOf(t *testing.T, typ string, values ...string) []uint64 {
	t.Helper()
	c := newColumn(t, typ, false)
	for _, v := range values {
		require.NoError(t, c.AppendJSON(read(t, v)), v)
	}
	return native.HashRows(nil, len(values), []string{"c"}, []*native.Column{c})
}

// Every value of every type has a hash of its own, whatever stands before it in the column.
func TestHashTellsValuesApart(t *testing.T) {
	for _, c := range engineCases {
		typ, err := native.ParseType(c.typ)
		require.NoError(t, err)
		if native.Hashable(typ) != nil {
			continue
		}
		seen := map[uint64]string{}
		var all []string
		for _, v := range c.values {
			all = append(all, v.in)
			one := hashOf(t, c.typ, v.in)[0]
			require.Equal(t, one, hashOf(t, c.typ, all...)[len(all)-1], "%s: %s", c.typ, v.in)
			if other, ok := seen[one]; ok && other != v.out && c.typ != "IPv4" {
				t.Errorf("%s: %s and %s have one hash", c.typ, other, v.out)
			}
			seen[one] = v.out
		}
	}
}

func TestHashDefaultsAddNothing(t *testing.T) {
	nothing := native.HashRows(nil, 1, nil, nil)
	for typ, value := range map[string]string{
		"UInt8": "0", "Int256": "0", "String": `""`, "FixedString(2)": `""`, "Float32": "-0.0", "BFloat16": "0", "Decimal(40, 2)": "0.00",
		"Nullable(UInt8)": "null", "LowCardinality(Nullable(String))": "null", "Array(UInt8)": "[]", "Map(String, UInt8)": "{}",
		"Enum8('b' = 5, 'a' = 3)": `"a"`, "Date": `"1970-01-01"`, "Date32": `"1900-01-01"`, "DateTime64(3)": "0", "Bool": "false",
		"UUID": `"00000000-0000-0000-0000-000000000000"`, "IPv6": `"::"`, "Tuple(UInt8, Nullable(String))": "[0, null]", "Tuple()": "[]",
		"Variant(UInt8, String)": "null", "QBit(Float32, 2)": "[0, -0.0]",
	} {
		require.Equal(t, nothing, hashOf(t, typ, value), typ)
	}
	for typ, value := range map[string]string{
		"Nullable(UInt8)": "0", "Array(UInt8)": "[0]", "Array(Nullable(UInt8))": "[null]", "Variant(UInt8, String)": "0", "Nullable(String)": `""`,
		"Map(String, UInt8)": `{"": 0}`, "Tuple(UInt8, Nullable(UInt8))": "[0, 0]", "Enum8('b' = 5, 'z' = 0, 'a' = -3)": `"z"`, "Date32": `"1970-01-01"`,
	} {
		require.NotEqual(t, nothing, hashOf(t, typ, value), typ)
	}
}

func TestHashIsOfValuesNotOfEncodings(t *testing.T) {
	for _, same := range [][][2]string{
		{{"Int8", "-1"}, {"Int64", "-1"}},
		{{"UInt8", "200"}, {"UInt64", "200"}, {"Int32", "200"}},
		{{"Float32", "1.5"}, {"Float64", "1.5"}, {"BFloat16", "1.5"}},
		{{"String", `"x"`}, {"LowCardinality(String)", `"x"`}},
		{{"Enum8('a' = 1, 'b' = 2)", `"b"`}, {"Enum16('a' = 1, 'b' = 2, 'c' = 300)", `"b"`}},
		{{"Map(String, UInt8)", `{"a":1,"b":2}`}, {"Map(String, UInt8)", `{"b":2,"a":1}`}},
		{{"Decimal(9, 2)", "1.25"}, {"Decimal(18, 2)", "1.25"}},
		{{"Float64", `"nan"`}, {"Float32", `"nan"`}},
	} {
		for _, other := range same[1:] {
			a, err := native.ParseType(same[0][0])
			require.NoError(t, err)
			b, err := native.ParseType(other[0])
			require.NoError(t, err)
			require.True(t, native.HashesAlike(a, b) && native.HashesAlike(b, a), "%s, %s", a, b)
			require.Equal(t, hashOf(t, same[0][0], same[0][1]), hashOf(t, other[0], other[1]), "%s, %s", a, b)
		}
	}
	for _, differ := range [][2]string{
		{"UInt64", "Nullable(UInt64)"}, {"DateTime", "DateTime64(0)"}, {"DateTime64(3)", "DateTime64(6)"}, {"Decimal(9, 2)", "Decimal(9, 3)"},
		{"Decimal(18, 2)", "Decimal(38, 2)"}, {"UInt64", "UInt128"}, {"String", "FixedString(3)"}, {"FixedString(2)", "FixedString(3)"},
		{"Array(UInt8)", "Array(String)"}, {"Tuple(UInt8)", "Tuple(UInt8, UInt8)"}, {"Enum8('a' = 1)", "Enum8('a' = 1, 'b' = 0)"},
		{"UInt32", "Float32"}, {"Variant(UInt8, String)", "Variant(UInt8, UUID, String)"},
	} {
		a, err := native.ParseType(differ[0])
		require.NoError(t, err)
		b, err := native.ParseType(differ[1])
		require.NoError(t, err)
		require.False(t, native.HashesAlike(a, b), "%s, %s", a, b)
	}
}

// Values that change places between rows or between columns are seen, though all is added up.
func TestHashSeesWhatChangesPlaces(t *testing.T) {
	sum := func(a, b []string) (total uint64) {
		columns := []*native.Column{newColumn(t, "UInt32", false), newColumn(t, "UInt32", false)}
		for row := range a {
			require.NoError(t, columns[0].AppendJSON(read(t, a[row])))
			require.NoError(t, columns[1].AppendJSON(read(t, b[row])))
		}
		for _, h := range native.HashRows(nil, len(a), []string{"a", "b"}, columns) {
			total += h
		}
		return total
	}
	base := sum([]string{"1", "3"}, []string{"2", "4"})
	require.Equal(t, base, sum([]string{"3", "1"}, []string{"4", "2"}), "the order of rows does not count")
	require.NotEqual(t, base, sum([]string{"1", "3"}, []string{"4", "2"}), "values of a column swapped between two rows")
	require.NotEqual(t, base, sum([]string{"2", "3"}, []string{"1", "4"}), "values swapped between two columns")
	require.Equal(t, hashOf(t, "Array(UInt8)", "[1,2]"), hashOf(t, "Array(UInt8)", "[1,2]"))
	require.NotEqual(t, hashOf(t, "Array(UInt8)", "[1,2]"), hashOf(t, "Array(UInt8)", "[2,1]"))
	require.NotEqual(t, hashOf(t, "Array(Array(UInt8))", "[[1],[]]"), hashOf(t, "Array(Array(UInt8))", "[[],[1]]"))
	require.NotEqual(t, hashOf(t, "Tuple(UInt8, UInt8)", "[1,2]"), hashOf(t, "Tuple(UInt8, UInt8)", "[2,1]"))
	require.NotEqual(t, hashOf(t, "Map(String, String)", `{"a":"b"}`), hashOf(t, "Map(String, String)", `{"b":"a"}`))
}

// The hashes are in the ledgers of running pipelines: a change needs another HashVersion.
func TestHashIsAsItWas(t *testing.T) {
	require.Equal(t, 1, native.HashVersion)
	var sum uint64
	for _, c := range engineCases {
		typ, err := native.ParseType(c.typ)
		require.NoError(t, err)
		if native.Hashable(typ) != nil {
			continue
		}
		for _, v := range c.values {
			sum += hashOf(t, c.typ, v.in)[0]
		}
	}
	require.Equal(t, "1f37e175b9940018", fmt.Sprintf("%x", sum))
}

func BenchmarkHashRows(b *testing.B) {
	names := []string{"id", "user_id", "name", "email", "created_at"}
	columns := []*native.Column{newColumn(b, "String", false), newColumn(b, "UInt64", false), newColumn(b, "String", false), newColumn(b, "String", false),
		newColumn(b, "DateTime64(3)", false)}
	const rows = 10_000
	for n := range int64(rows) {
		for i, v := range []string{fmt.Sprintf("event-%032d", n), fmt.Sprint(n), fmt.Sprintf("name %d", n), fmt.Sprintf("user-%d@example.com", n), "1769862896789"} {
			if err := columns[i].AppendString([]byte(v)); err != nil {
				b.Fatal(err)
			}
		}
	}
	var dst []uint64
	for b.Loop() {
		dst = native.HashRows(dst[:0], rows, names, columns)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}
