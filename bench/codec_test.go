package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/rows"
)

// rawColumns are the columns of one batch as the ingestor makes them, before compression: every fourth event, as one of four lanes gets them.
func rawColumns(tb testing.TB, s shape, size int) (raw []byte, events int) {
	tb.Helper()
	var schema []*controlv1.SchemaColumn
	for _, c := range s.columns {
		name, typ, _ := strings.Cut(c, " ")
		schema = append(schema, &controlv1.SchemaColumn{Name: name, Type: typ})
	}
	plan, err := rows.NewPlan(schema, nil)
	if err != nil {
		tb.Fatal(err)
	}
	parser, columns := rows.NewParser(plan), plan.NewColumns()
	for total := 0; total < size; events++ {
		value := s.append(nil, uint64(events)*4)
		if _, reject := parser.Parse(rows.Record{Value: value}); reject != nil {
			tb.Fatal(reject)
		}
		if reject := parser.AppendTo(columns); reject != nil {
			tb.Fatal(reject)
		}
		total = 0
		for _, c := range columns {
			total += c.Size()
		}
	}
	for _, c := range columns {
		raw = batch.AppendColumn(raw, c.AppendWire)
	}
	return raw, events
}

// cpuTime is the CPU that this process has used: on a machine with other work, time says nothing.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCodec compares what could compress the columns of a batch: nanoseconds of CPU and bytes per event.
func BenchmarkCodec(b *testing.B) {
	zstdOf := func(level zstd.EncoderLevel, opts ...zstd.EOption) func(dst, src []byte) []byte {
		e, err := zstd.NewWriter(nil, append(opts, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))...)
		if err != nil {
			b.Fatal(err)
		}
		return func(dst, src []byte) []byte { return e.EncodeAll(src, dst[:0]) }
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		b.Fatal(err)
	}
	unzstd := func(dst, src []byte) ([]byte, error) { return decoder.DecodeAll(src, dst[:0]) }
	unS2 := func(dst, src []byte) ([]byte, error) { return s2.Decode(dst[:cap(dst)], src) }
	var lz lz4.Compressor
	for _, s := range shapes() {
		for _, size := range []int{64 << 10, 128 << 10, 256 << 10, 512 << 10} {
			raw, events := rawColumns(b, s, size)
			for _, c := range []struct {
				name   string
				encode func(dst, src []byte) []byte
				decode func(dst, src []byte) ([]byte, error)
			}{
				{"s2", func(dst, src []byte) []byte { return s2.Encode(dst[:cap(dst)], src) }, unS2},
				{"s2-better", func(dst, src []byte) []byte { return s2.EncodeBetter(dst[:cap(dst)], src) }, unS2},
				{"lz4", func(dst, src []byte) []byte {
					n, err := lz.CompressBlock(src, dst[:cap(dst)])
					if err != nil {
						b.Fatal(err)
					}
					return dst[:n]
				}, func(dst, src []byte) ([]byte, error) {
					n, err := lz4.UncompressBlock(src, dst[:cap(dst)])
					return dst[:n], err
				}},
				{"zstd-1", zstdOf(zstd.SpeedFastest), unzstd},
				{"zstd-1-noentropy", zstdOf(zstd.SpeedFastest, zstd.WithNoEntropyCompression(true)), unzstd},
				{"zstd-2", zstdOf(zstd.SpeedDefault), unzstd},
			} {
				name := fmt.Sprintf("%s/%dK/%s", s.name, size>>10, c.name)
				packed := make([]byte, 0, s2.MaxEncodedLen(len(raw))+1024)
				b.Run(name+"/encode", func(b *testing.B) {
					before := cpuTime(b)
					for b.Loop() {
						packed = c.encode(packed, raw)
					}
					b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/float64(events), "cpu-ns/event")
					b.ReportMetric(float64(len(packed))/float64(events), "B/event")
					b.ReportMetric(float64(len(raw))/float64(events), "raw-B/event")
				})
				dst := make([]byte, 0, len(raw)+1024)
				b.Run(name+"/decode", func(b *testing.B) {
					before := cpuTime(b)
					for b.Loop() {
						if _, err := c.decode(dst, packed); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/float64(events), "cpu-ns/event")
				})
			}
		}
	}
}
