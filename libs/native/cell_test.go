package native_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/libs/native"
)

// TestCellProperty: for random types and values, the cell of a row is the wire form of a column of that row alone, and a
// column put together from cells is the one that they were cut out of.
func TestCellProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := generate(t, 0)
		optional := rapid.Bool().Draw(t, "optional")
		typ, err := native.ParseType(g.typ)
		require.NoError(t, err)
		value := g.value
		if optional {
			value = rapid.OneOf(value, rapid.Just(""))
		}
		cells := native.NewCells(typ, optional)
		for range rapid.IntRange(1, 2).Draw(t, "batches") { // a cutter is used for many
			docs := rapid.SliceOfN(value, 0, 40).Draw(t, "docs")
			src, want, got := native.NewColumn(typ, optional), native.NewColumn(typ, optional), native.NewColumn(typ, optional)
			for _, doc := range docs {
				require.NoError(t, src.AppendJSON(read(t, doc)), doc)
			}
			wire := src.AppendWire(nil)
			require.Error(t, cells.Open(append(bytes.Clone(wire), 0), len(docs)))
			if len(wire) > 0 {
				require.Error(t, cells.Open(wire[:len(wire)-1], len(docs)))
			}
			require.NoError(t, cells.Open(wire, len(docs)))
			for i, doc := range docs {
				if rapid.Bool().Draw(t, "skip") {
					cells.Skip()
					continue
				}
				require.NoError(t, want.AppendJSON(read(t, doc)))
				one := native.NewColumn(typ, optional)
				require.NoError(t, one.AppendJSON(read(t, doc)))
				cell := cells.Cut([]byte("head"))[4:]
				require.Equal(t, one.AppendWire(nil), cell, "row %d", i)
				before := got.AppendWire(nil)
				_, err := got.AppendCell(cell[:len(cell)-1])
				require.Error(t, err)
				require.Equal(t, before, got.AppendWire(nil), "after a refused cell")
				rest, err := got.AppendCell(append(cell, "next"...))
				require.NoError(t, err)
				require.Equal(t, "next", string(rest))
			}
			require.Equal(t, want.AppendWire(nil), got.AppendWire(nil))
			require.Equal(t, want.Absent(), got.Absent())
		}
	})
}

func TestAppendZero(t *testing.T) {
	for typ, doc := range map[string]string{
		"Int64": "0", "String": `""`, "Nullable(String)": "null", "Array(UInt8)": "[]", "LowCardinality(Nullable(String))": "null",
		"Enum8('a' = 3, 'b' = -1)": `"b"`, "Variant(String, UInt8)": "null", "Dynamic": "null", "Tuple(Int64, String)": `[0, ""]`,
		"Date": `"1970-01-01"`, "Date32": `"1970-01-01"`, "LowCardinality(Date32)": `"1970-01-01"`, "Tuple(Date32)": `["1970-01-01"]`,
	} {
		t.Run(typ, func(t *testing.T) {
			got, want := newColumn(t, typ, true), newColumn(t, typ, true)
			got.AppendZero()
			require.NoError(t, want.AppendJSON(read(t, doc)))
			require.Equal(t, want.AppendWire(nil), got.AppendWire(nil))
			require.Zero(t, got.Absent())
		})
	}
}

// FuzzCells: hostile bytes are refused or cut without running out of bounds, as AppendFromWire takes them.
func FuzzCells(f *testing.F) {
	for i, typ := range fuzzTypes {
		c := newColumn(f, typ, i%2 == 0)
		c.AppendZero()
		f.Add(uint8(i), uint8(1), c.AppendWire(nil))
	}
	f.Fuzz(func(t *testing.T, kind, rows uint8, wire []byte) {
		i := int(kind) % len(fuzzTypes)
		typ, err := native.ParseType(fuzzTypes[i])
		require.NoError(t, err)
		cells, whole, column := native.NewCells(typ, i%2 == 0), newColumn(t, fuzzTypes[i], i%2 == 0), newColumn(t, fuzzTypes[i], i%2 == 0)
		if cells.Open(wire, int(rows)) != nil {
			return
		}
		if whole.AppendFromWire(wire, int(rows), nil) != nil {
			return // a Dynamic that is not JSON
		}
		for range rows {
			_, err := column.AppendCell(cells.Cut(nil))
			require.NoError(t, err)
		}
		require.Equal(t, whole.AppendWire(nil), column.AppendWire(nil))
	})
}

func BenchmarkCells(b *testing.B) {
	types := []string{"UInt64", "String", "Nullable(String)", "DateTime64(3)", "LowCardinality(String)"}
	const rows = 1000
	cells, out := make([]*native.Cells, len(types)), make([]*native.Column, len(types))
	wires := make([][]byte, len(types))
	for i, name := range types {
		typ, err := native.ParseType(name)
		require.NoError(b, err)
		src := native.NewColumn(typ, false)
		for range rows {
			require.NoError(b, src.AppendInt(1_700_000_000))
		}
		cells[i], out[i], wires[i] = native.NewCells(typ, false), native.NewColumn(typ, false), src.AppendWire(nil)
	}
	var row []byte
	b.ReportAllocs()
	for range b.N {
		for i := range cells {
			require.NoError(b, cells[i].Open(wires[i], rows))
			out[i].Reset()
		}
		for range rows {
			row = row[:0]
			for i := range cells {
				row = cells[i].Cut(row)
			}
			rest := row
			for i := range out {
				rest, _ = out[i].AppendCell(rest)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows/float64(len(types)), "ns/cell")
}
