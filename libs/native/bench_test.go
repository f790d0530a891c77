package native_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	"sluice/libs/jsonread"
	"sluice/libs/native"
)

const benchRows = 8192

var benchColumns = []struct {
	typ string
	doc func(i int) string
}{
	{"UInt64", func(i int) string { return fmt.Sprint(1_000_000_000 + i*7919) }},
	{"String", func(i int) string { return fmt.Sprintf(`"user-%d@example.com"`, i) }},
	{"LowCardinality(String)", func(i int) string { return fmt.Sprintf(`"country-%d"`, i*7919%200) }},
	{"DateTime", func(i int) string { return fmt.Sprintf(`"2024-05-06 %02d:%02d:%02d"`, i%24, i%60, i%60) }},
	{"DateTime64(3)", func(i int) string { return fmt.Sprintf(`"2024-05-06T%02d:%02d:%02d.123Z"`, i%24, i%60, i%60) }},
	{"Float64", func(i int) string { return fmt.Sprintf("%d.%02d", i, i%100) }},
	{"Decimal(18, 4)", func(i int) string { return fmt.Sprintf("%d.%02d", i, i%100) }},
	{"UUID", func(i int) string { return fmt.Sprintf(`"61f0c404-5cb3-11e7-907b-%012x"`, i) }},
	{"Array(UInt32)", func(i int) string { return fmt.Sprintf("[%d, 2, 3]", i) }},
}

func benchColumn(b *testing.B, typ string, doc func(int) string) (*native.Column, []jsonread.Value) {
	col, values := newColumn(b, typ, false), make([]jsonread.Value, benchRows)
	for i := range values {
		values[i] = read(b, doc(i))
		require.NoError(b, col.AppendJSON(values[i]))
	}
	return col, values
}

func perValue(b *testing.B) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRows, "ns/value")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkAppendJSON(b *testing.B) {
	for _, c := range benchColumns {
		b.Run(c.typ, func(b *testing.B) {
			col, values := benchColumn(b, c.typ, c.doc)
			b.ReportAllocs()
			for b.Loop() {
				col.Reset()
				for _, v := range values {
					if err := col.AppendJSON(v); err != nil {
						b.Fatal(err)
					}
				}
			}
			perValue(b)
		})
	}
}

func BenchmarkAppendFromWire(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	keep := make([]byte, benchRows/8)
	for i := range benchRows {
		if random.IntN(10) > 0 {
			keep[i/8] |= 1 << (i % 8)
		}
	}
	for _, c := range benchColumns[:3] {
		src, _ := benchColumn(b, c.typ, c.doc)
		wire := src.AppendWire(nil)
		for name, keep := range map[string][]byte{"all": nil, "90%": keep} {
			b.Run(c.typ+"/"+name, func(b *testing.B) {
				col := newColumn(b, c.typ, false)
				b.ReportAllocs()
				for b.Loop() {
					col.Reset()
					if err := col.AppendFromWire(wire, benchRows, keep); err != nil {
						b.Fatal(err)
					}
				}
				perValue(b)
			})
		}
	}
}

func BenchmarkWriteColumn(b *testing.B) {
	for _, c := range benchColumns[:3] {
		b.Run(c.typ, func(b *testing.B) {
			col, _ := benchColumn(b, c.typ, c.doc)
			w := proto.NewWriter(io.Discard, new(proto.Buffer))
			b.ReportAllocs()
			for b.Loop() {
				if err := col.Prepare(); err != nil {
					b.Fatal(err)
				}
				w.ChainBuffer(col.EncodeState)
				col.WriteColumn(w)
				if _, err := w.Flush(); err != nil {
					b.Fatal(err)
				}
			}
			perValue(b)
		})
	}
}
