package native_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/libs/native"
)

// generated is a type and a source of JSON values of it.
type generated struct {
	typ   string
	value *rapid.Generator[string]
}

var scalars = []generated{
	{"UInt8", rapid.Map(rapid.Uint8(), func(n uint8) string { return fmt.Sprint(n) })},
	{"Int64", rapid.Map(rapid.Int64(), func(n int64) string { return fmt.Sprint(n) })},
	{"Int256", rapid.Map(rapid.Int64(), func(n int64) string { return fmt.Sprintf("%de12", n) })},
	{"Decimal(38, 3)", rapid.Map(rapid.Int64(), func(n int64) string { return fmt.Sprintf("%d.125", n) })},
	{"Float64", rapid.Map(rapid.Float64(), func(n float64) string { return fmt.Sprintf("%g", n) })},
	{"String", rapid.Map(rapid.StringN(0, 200, 300), func(s string) string { return fmt.Sprintf(`"%s"`, strings.Map(onlyPlain, s)) })},
	{"FixedString(3)", rapid.Just(`"ab"`)},
	{"DateTime", rapid.Map(rapid.Uint32(), func(n uint32) string { return fmt.Sprint(n) })},
	{"LowCardinality(String)", rapid.SampledFrom([]string{`"a"`, `"b"`, `""`})},
	{"LowCardinality(Nullable(UInt16))", rapid.SampledFrom([]string{"1", "2", "null"})},
	{"Dynamic", rapid.SampledFrom([]string{"1", `"a"`, "null", "[1]", `{"a":1}`})},
	{"JSON", rapid.SampledFrom([]string{`{}`, `{"a":1}`})},
	{"Variant(String, UInt8, Array(String))", rapid.SampledFrom([]string{"1", `"a"`, "null", `["x"]`, `[]`})},
	{"QBit(Float32, 3)", rapid.Just("[1,2,3]")},
}

func onlyPlain(r rune) rune {
	if r < ' ' || r == '"' || r == '\\' {
		return 'x'
	}
	return r
}

// generate draws a random type.
func generate(t *rapid.T, depth int) generated {
	kind := "scalar"
	if depth < 3 {
		kind = rapid.SampledFrom([]string{"scalar", "array", "map", "tuple", "nullable"}).Draw(t, "kind")
	}
	switch kind {
	case "array":
		inner := generate(t, depth+1)
		return generated{"Array(" + inner.typ + ")", rapid.Map(rapid.SliceOfN(inner.value, 0, 4), func(s []string) string {
			return "[" + strings.Join(s, ",") + "]"
		})}
	case "map":
		inner := generate(t, depth+1)
		return generated{"Map(String, " + inner.typ + ")", rapid.Map(rapid.SliceOfN(inner.value, 0, 3), func(s []string) string {
			for i := range s {
				s[i] = fmt.Sprintf(`"k%d":%s`, i, s[i])
			}
			return "{" + strings.Join(s, ",") + "}"
		})}
	case "tuple":
		a, b := generate(t, depth+1), generate(t, depth+1)
		return generated{fmt.Sprintf("Tuple(a %s, b %s)", a.typ, b.typ), rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf(`{"b":%s,"a":%s}`, b.value.Draw(t, "b"), a.value.Draw(t, "a"))
		})}
	case "nullable":
		inner := rapid.SampledFrom(scalars[:8]).Draw(t, "inner")
		return generated{"Nullable(" + inner.typ + ")", rapid.OneOf(inner.value, rapid.Just("null"))}
	}
	return rapid.SampledFrom(scalars).Draw(t, "scalar")
}

func block(t require.TestingT, c *native.Column) []byte {
	var b proto.Buffer
	require.NoError(t, c.Prepare())
	c.EncodeState(&b)
	c.EncodeColumn(&b)
	var out bytes.Buffer
	w := proto.NewWriter(&out, new(proto.Buffer))
	w.ChainBuffer(c.EncodeState)
	c.WriteColumn(w)
	_, err := w.Flush()
	require.NoError(t, err)
	require.Equal(t, b.Buf, out.Bytes(), "WriteColumn and EncodeColumn")
	return b.Buf
}

// TestWireProperty: for random types, values and selections, what comes over the wire is what would
// have been appended in the first place; Truncate and Reset undo; a refused row leaves no trace.
func TestWireProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := generate(t, 0)
		optional := rapid.Bool().Draw(t, "optional")
		typ, err := native.ParseType(g.typ)
		require.NoError(t, err)
		got, want := native.NewColumn(typ, optional), native.NewColumn(typ, optional)
		value := g.value
		if optional {
			value = rapid.OneOf(value, rapid.Just(""))
		}
		for range rapid.IntRange(1, 3).Draw(t, "batches") {
			docs := rapid.SliceOfN(value, 0, 70).Draw(t, "docs")
			src := native.NewColumn(typ, optional)
			var keep []byte
			if rapid.Bool().Draw(t, "filtered") {
				keep = rapid.SliceOfN(rapid.Byte(), (len(docs)+7)/8, (len(docs)+7)/8+1).Draw(t, "keep")
			}
			for i, doc := range docs {
				require.NoError(t, src.AppendJSON(read(t, doc)), doc)
				if keep == nil || keep[i/8]>>(i%8)&1 == 1 {
					require.NoError(t, want.AppendJSON(read(t, doc)))
				}
			}
			wire := src.AppendWire([]byte("head"))[4:]
			before := got.AppendWire(nil)
			if len(wire) > 0 {
				require.Error(t, got.AppendFromWire(wire[:len(wire)-1], len(docs), keep))
			}
			require.Error(t, got.AppendFromWire(append(bytes.Clone(wire), 0), len(docs), keep))
			require.Equal(t, before, got.AppendWire(nil), "after refused bytes")
			require.NoError(t, got.AppendFromWire(wire, len(docs), keep))
		}
		wire := want.AppendWire(nil)
		require.Equal(t, want.Rows(), got.Rows())
		require.Equal(t, want.Absent(), got.Absent())
		require.Equal(t, wire, got.AppendWire(nil))
		if want.Absent() == 0 {
			require.Equal(t, block(t, want), block(t, got))
		}

		cut := rapid.IntRange(0, got.Rows()).Draw(t, "cut")
		keep := bytes.Repeat([]byte{0xff}, cut/8+1)
		keep[cut/8] = 1<<(cut%8) - 1
		keep = append(keep, make([]byte, got.Rows()/8)...)
		short := native.NewColumn(typ, optional)
		require.NoError(t, short.AppendFromWire(wire, want.Rows(), keep))
		got.Truncate(cut)
		require.Equal(t, short.AppendWire(nil), got.AppendWire(nil))
		require.Equal(t, short.Absent(), got.Absent())
		if cut > 0 {
			doc := value.Draw(t, "again")
			require.NoError(t, got.AppendJSON(read(t, doc)))
			got.Truncate(cut)
			require.Equal(t, short.AppendWire(nil), got.AppendWire(nil), "after taking back one row")
		}
		got.Reset()
		require.Zero(t, got.Rows())
		require.Equal(t, native.NewColumn(typ, optional).AppendWire(nil), got.AppendWire(nil))
	})
}

var fuzzTypes = []string{
	"UInt8", "String", "Nullable(Int64)", "Array(String)", "Array(Array(UInt8))", "Map(String, Array(Tuple(a Int64, b Nullable(DateTime64(3)))))",
	"Tuple()", "Array(Tuple())", "LowCardinality(Nullable(String))", "Array(LowCardinality(String))", "Variant(UInt8, String, Array(UInt16))",
	"Array(Variant(UInt8, String))", "Dynamic", "JSON", "QBit(Float32, 3)", "Array(Nullable(FixedString(5)))",
}

// FuzzAppendFromWire: whatever comes, there is an error or a column whose block can be written.
func FuzzAppendFromWire(f *testing.F) {
	f.Add(uint8(1), uint32(2), []byte{1, 'a', 0}, []byte{1}, true)
	f.Add(uint8(3), uint32(2), []byte{1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'a'}, []byte{3}, false)
	f.Add(uint8(4), uint32(1), bytes.Repeat([]byte{0xff}, 40), []byte{}, false)
	f.Add(uint8(10), uint32(3), []byte{0, 1, 255, 1, 'a', 7}, []byte{0xff}, false)
	f.Add(uint8(12), uint32(1), []byte{3, '[', '1', ']'}, []byte{}, false)
	f.Fuzz(func(t *testing.T, which uint8, rows uint32, src, keep []byte, optional bool) {
		if len(keep) == 0 {
			keep = nil
		}
		col := newColumn(t, fuzzTypes[int(which)%len(fuzzTypes)], optional)
		empty := col.AppendWire(nil)
		if err := col.AppendFromWire(src, int(rows), keep); err != nil {
			require.Equal(t, empty, col.AppendWire(nil))
			require.Zero(t, col.Rows())
			return
		}
		if keep == nil && len(src) > 0 && (!optional || src[0] == 1) && col.Absent() > 0 == optional {
			require.Equal(t, src, col.AppendWire(nil))
		}
		if col.Absent() == 0 {
			block(t, col)
		}
	})
}

func TestAppendFromWireRefuses(t *testing.T) {
	for _, c := range []struct {
		typ  string
		rows int
		src  []byte
		text string
	}{
		{"UInt8", -1, nil, "rows"},
		{"UInt8", 1 << 40, []byte{1}, "rows"},
		{"UInt64", 2, bytes.Repeat([]byte{1}, 15), "cut off"},
		{"String", 1, []byte{5, 'a'}, "cut off"},
		{"String", 1, bytes.Repeat([]byte{0xff}, 12), "cut off"},
		{"String", 1, []byte{0x80}, "cut off"},
		{"String", 1, []byte{0, 0}, "left over"},
		{"Nullable(UInt8)", 1, []byte{2, 0}, "neither 0 nor 1"},
		{"Array(UInt8)", 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, "behind the data"},
		{"Array(UInt8)", 2, []byte{2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2}, "out of order"},
		{"Variant(UInt8, String)", 1, []byte{2}, "out of range"},
		{"Variant(UInt8, String)", 2, []byte{1, 1}, "cut off"},
		{"Dynamic", 1, []byte{1, '['}, "not JSON"},
	} {
		col := newColumn(t, c.typ, false)
		require.ErrorContains(t, col.AppendFromWire(c.src, c.rows, nil), c.text, c.typ)
		require.Zero(t, col.Rows())
	}
	require.ErrorContains(t, newColumn(t, "UInt8", false).AppendFromWire(make([]byte, 9), 9, []byte{1}), "selection")
	require.ErrorContains(t, newColumn(t, "UInt8", true).AppendFromWire([]byte{2, 0}, 1, nil), "unknown form")
	require.ErrorContains(t, newColumn(t, "UInt8", true).AppendFromWire([]byte{1, 3, 0}, 1, nil), "behind the last row")
}
