package sink

import (
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/nats-io/nats.go/jetstream"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/jsonread"
	"sluice/libs/ledger"
	"sluice/libs/native"
	"sluice/libs/playground/nats/natstest"
	"sluice/services/sink/internal/block"
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
		name   string
		keep   byte
		ledger bool
	}{{"all", 0xff, false}, {"seven of eight", 0xef, false}, {"all, with the ledger", 0xff, true}} {
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
			a, account := &assembler{}, ledger.New(native.HashVersion)
			w := proto.NewWriter(io.Discard, new(proto.Buffer))
			b.ReportAllocs()
			b.ResetTimer()
			cpu := processTime(b)
			for range b.N {
				for range messages {
					if err := a.add(&v, l); err != nil {
						b.Fatal(err)
					}
				}
				g := a.done()[0]
				if c.ledger {
					a.complete()
					g.account.enter(account, block.Range{To: g.Rows}, false)
				}
				if err := (proto.Block{Columns: len(g.columns), Rows: g.Rows}).WriteBlock(w, 54453, g.columns); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Flush(); err != nil {
					b.Fatal(err)
				}
				a.reset()
			}
			rows := float64(b.N * messages * v.Selected)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/rows, "ns/row")
			b.ReportMetric(float64((processTime(b)-cpu).Nanoseconds())/rows, "cpu-ns/row") // on a machine that does other things, too
		})
	}
}

func processTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPosition is what a write of the position costs, server and all, with and without a ledger: there is one for each block.
func BenchmarkPosition(b *testing.B) {
	_, js := natstest.Connect(b, natstest.Start(b))
	kv, err := js.CreateKeyValue(b.Context(), jetstream.KeyValueConfig{Bucket: "b"})
	if err != nil {
		b.Fatal(err)
	}
	full := ledger.New(native.HashVersion)
	for i := range 10_000 {
		full.Add(int32(i%12), int64(i), uint64(i)*0x9e3779b97f4a7c15)
	}
	for name, of := range map[string]*ledger.Ledger{"without": nil, "with the ledger": full} {
		b.Run(name, func(b *testing.B) {
			p := &position{kv: kv, key: "sink.0.position", pace: pace{firstBackoff, lastBackoff}, wait: func(error) {}, rewound: func(string) {}}
			if err := p.open(b.Context()); err != nil {
				b.Fatal(err)
			}
			l := &lane{pos: p, ledger: of}
			b.ResetTimer()
			cpu := processTime(b)
			for range b.N {
				if err := l.write(b.Context(), nil); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processTime(b)-cpu).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}
