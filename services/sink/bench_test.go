package sink

import (
	"fmt"
	"io"
	"testing"

	"github.com/ClickHouse/ch-go/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/jsonread"
	"sluice/libs/native"
)

// BenchmarkAssemble is what the sink itself spends on a row of five columns between the log and the socket: decompress,
// append, write the block.
func BenchmarkAssemble(b *testing.B) {
	const perMessage, messages = 2000, 50
	record := &controlv1.PipelineRecord{Schemas: []*controlv1.Schema{{Revision: 1}}}
	for name, typ := range map[string]string{"event_id": "String", "user_id": "UInt64", "name": "String", "email": "String", "created_at": "DateTime64(3)"} {
		record.Schemas[0].Columns = append(record.Schemas[0].Columns, &controlv1.SchemaColumn{Name: name, Type: typ})
	}
	layouts, err := layoutsOf(record)
	if err != nil {
		b.Fatal(err)
	}
	l := layouts[1]
	var build batch.Builder
	columns := make([]*native.Column, len(l.types))
	for i, t := range l.types {
		columns[i] = native.NewColumn(t, false)
	}
	for row := range perMessage {
		build.Add(batch.Row{Offset: int64(row)}, batch.Fields{})
		for i, c := range columns {
			v := jsonread.Value{Kind: jsonread.Number, Raw: fmt.Append(nil, 1700000000000+row)}
			if c.DataType().String() == "String" {
				v = jsonread.Value{Kind: jsonread.String, Raw: fmt.Appendf(nil, "some text %d of row %d", i, row)}
			}
			if err := c.AppendJSON(v); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name string
		keep byte
	}{{"all", 0xff}, {"seven of eight", 0xef}} {
		b.Run(c.name, func(b *testing.B) {
			var v batch.View
			build.View(&v, func(dst []byte) []byte {
				for _, c := range columns {
					dst = batch.AppendColumn(dst, c.AppendWire)
				}
				return dst
			})
			if c.keep != 0xff {
				v.Selection = make([]byte, perMessage/8)
				for i := range v.Selection {
					v.Selection[i] = c.keep
				}
				v.Selected = perMessage / 8 * 7
			}
			a := &assembler{}
			w := proto.NewWriter(io.Discard, new(proto.Buffer))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				for range messages {
					if err := a.add(&v, l); err != nil {
						b.Fatal(err)
					}
				}
				g := a.done()[0]
				if err := (proto.Block{Columns: len(g.columns), Rows: g.Rows}).WriteBlock(w, 54453, g.columns); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Flush(); err != nil {
					b.Fatal(err)
				}
				a.reset()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*messages*v.Selected), "ns/row")
		})
	}
}
