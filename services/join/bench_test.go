//go:build unix

package join

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fold"
	"sluice/libs/native"
	"sluice/libs/spec"
	"sluice/services/join/internal/disk"
	"sluice/services/join/internal/state"
)

// sized is an Emitter that counts.
type sized struct {
	buf             []byte
	messages, bytes int
}

func (s *sized) Append(_ int, encode func([]byte) []byte) error {
	s.buf = encode(s.buf[:0])
	s.messages++
	s.bytes += len(s.buf)
	return nil
}

func (s *sized) Refuse([]deadletters.Refusal) error { return nil }

// benchRecord joins orders of five columns with users of four, in about 100 bytes a row.
func benchRecord(change func(*controlv1.Join)) *controlv1.PipelineRecord {
	join := &controlv1.Join{
		Left: "orders", Right: "users", Window: durationpb.New(time.Hour), Grace: durationpb.New(time.Second), Idle: durationpb.New(time.Minute),
		Kind: controlv1.Join_INTERVAL, Type: controlv1.Join_LEFT,
	}
	change(join)
	source := &controlv1.Source{Kafka: &controlv1.KafkaSource{Topic: "t"}}
	return &controlv1.PipelineRecord{
		Spec: &controlv1.Pipeline{Id: "p", Lanes: 1, Join: join, Sources: map[string]*controlv1.Source{"orders": source, "users": source}},
		Schemas: []*controlv1.Schema{{Revision: 1, Columns: []*controlv1.SchemaColumn{
			{Name: "id", Type: "UInt64", Source: "orders"}, {Name: "customer", Type: "String", Source: "orders"},
			{Name: "amount", Type: "Decimal(18, 2)", Source: "orders"}, {Name: "at", Type: "DateTime64(3)", Source: "orders"},
			{Name: "note", Type: "String", Source: "orders"},
			{Name: "name", Type: "String", Source: "users"}, {Name: "age", Type: "UInt8", Source: "users"},
			{Name: "city", Type: "LowCardinality(String)", Source: "users"}, {Name: "about", Type: "Nullable(String)", Source: "users"},
		}}},
	}
}

// feed makes batches for a core.
type feed struct {
	t       testing.TB
	record  *controlv1.PipelineRecord
	offsets map[string]int64
	columns map[string][]*native.Column
}

func newFeed(t testing.TB, record *controlv1.PipelineRecord) *feed {
	f := &feed{t: t, record: record, offsets: map[string]int64{}, columns: map[string][]*native.Column{}}
	for _, source := range []string{"orders", "users"} {
		for _, c := range spec.Columns(record.GetSchemas()[0], source) {
			column, err := newColumn(c)
			require.NoError(t, err)
			f.columns[source] = append(f.columns[source], column)
		}
	}
	return f
}

// batch makes one of n rows, whose keys and times are given by row.
func (f *feed) batch(source string, n int, at func(i int) (key uint64, ms int64)) []byte {
	var b batch.Builder
	columns := f.columns[source]
	for _, c := range columns {
		c.Reset()
	}
	var last int64
	for i := range n {
		key, ms := at(i)
		offset := f.offsets[source]
		f.offsets[source]++
		b.Add(batch.Row{Offset: offset, JoinKey: [2]uint64{key * 0x9e3779b97f4a7c15, key*0xd1342543de82ef95 + 1}, EventMS: ms}, batch.Fields{Join: true})
		last = max(last, ms)
		for _, c := range columns {
			var err error
			switch c.DataType().String() {
			case "String", "LowCardinality(String)", "Nullable(String)":
				err = c.AppendString(strconv.AppendInt([]byte("some text of an event "), offset%1000, 10))
			case "UInt8":
				err = c.AppendInt(offset % 100)
			default:
				err = c.AppendInt(offset)
			}
			require.NoError(f.t, err)
		}
	}
	v := batch.View{SchemaRevision: 1, Topic: []byte("t"), ArrivalMS: last, Source: []byte(source), Progress: batch.Progress{MaxEventMS: last, HasMax: true, Partitions: 1}}
	b.View(&v, func(dst []byte) []byte {
		for _, c := range columns {
			dst = batch.AppendColumn(dst, c.AppendWire)
		}
		return dst
	})
	return v.Append(nil)
}

// step hands a batch to a core as package fold does.
func step(t testing.TB, c *core, sequence uint64, data []byte, tally *batch.Tally, out fold.Emitter) {
	var v batch.View
	require.NoError(t, v.Parse(data))
	require.NoError(t, c.Step(fold.Input{Sequence: sequence, Writer: string(v.Source) + "-0", View: &v, Tally: tally}, out))
}

// sizeOf is the bytes in a directory.
func sizeOf(t testing.TB, dir string) (bytes int64) {
	require.NoError(t, filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // compacted meanwhile
			return nil
		}
		bytes += info.Size()
		return err
	}))
	return bytes
}

func benchCore(t testing.TB, record *controlv1.PipelineRecord) *core {
	return benchCoreIn(t, record, t.TempDir())
}

func benchCoreIn(t testing.TB, record *controlv1.PipelineRecord, dir string) *core {
	c := newCore(record, config{maxMessage: 1 << 20, log: slog.New(slog.DiscardHandler), disk: func() (state.Disk, error) { return disk.Open(dir) }})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// BenchmarkJoin is the work of the stage without the logs: columns to rows, matching, rows to columns.
func BenchmarkJoin(b *testing.B) {
	const rows = 1000
	for _, c := range []struct {
		name   string
		join   func(*controlv1.Join)
		keys   uint64 // of the left rows
		rights int    // for each left batch: batches of right rows
		spread uint64 // keys of the right rows
	}{
		// Many orders for each of 10 000 users, who changed once: each left row meets one.
		{"n to 1 lookup", func(j *controlv1.Join) { j.Kind, j.Window, j.Grace = controlv1.Join_LOOKUP, nil, durationpb.New(0) }, 10_000, 0, 10_000},
		{"n to 1 interval", func(*controlv1.Join) {}, 10_000, 0, 10_000},
		// Each order has ten items: rows of the right side that meet one left row each.
		{"1 to n interval", func(*controlv1.Join) {}, 1 << 40, 10, 1 << 40},
		// As n to 1, but with memory for a tenth of the users.
		{"n to 1 interval, on disk", func(j *controlv1.Join) { j.Memory = 1 << 20 }, 10_000, 0, 10_000},
	} {
		b.Run(c.name, func(b *testing.B) {
			record := benchRecord(c.join)
			core, f, out, tally := benchCore(b, record), newFeed(b, record), &sized{}, &batch.Tally{}
			sequence, left := uint64(0), uint64(0)
			run := func(data []byte) {
				sequence++
				step(b, core, sequence, data, tally, out)
			}
			if c.rights == 0 {
				for n := 0; n < 10_000; n += rows {
					run(f.batch("users", rows, func(i int) (uint64, int64) { return uint64(n + i), 1000 }))
				}
			}
			var inputs [][]byte
			// The time goes on so slowly that all of the window is kept.
			for range 30 {
				first := left
				inputs = append(inputs, f.batch("orders", rows, func(i int) (uint64, int64) { left++; return (left - 1) % c.keys, 10_000 + int64(left/100) }))
				for k := range c.rights {
					inputs = append(inputs, f.batch("users", rows, func(i int) (uint64, int64) {
						return (first + uint64(k*rows+i)/10) % c.spread, 10_000 + int64(first/100)
					}))
				}
				if c.rights == 0 {
					inputs = append(inputs, f.batch("users", 1, func(int) (uint64, int64) { return 1 << 50, 10_000 + int64(left/100) }))
				}
			}
			b.ReportAllocs()
			before, events, at := tally.Rows, tally.Records, 0
			cpu := cpuTime()
			for b.Loop() {
				if at == len(inputs) {
					b.StopTimer()
					paused := cpuTime()
					core, at = benchCore(b, record), 0
					*tally = batch.Tally{Records: tally.Records, Rows: tally.Rows}
					if c.rights == 0 {
						for n := 0; n < 10_000; n += rows {
							step(b, core, 1, f.batch("users", rows, func(i int) (uint64, int64) { return uint64(n + i), 1000 }), &batch.Tally{}, out)
						}
					}
					cpu += cpuTime() - paused
					b.StartTimer()
				}
				run(inputs[at])
				core.rows.Take()
				at++
			}
			done := float64(tally.Records - events)
			b.ReportMetric(done/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/done, "cpu-ns/event")
			b.ReportMetric(float64(tally.Rows-before)/done, "rows/event")
		})
	}
}

// TestManyRows measures a state of many rows: its size in memory and in the checkpoint, and how long it takes to restore it.
// SLUICE_JOIN_ROWS=10000000 for the long form.
func TestManyRows(t *testing.T) {
	rows := 200_000
	if text := os.Getenv("SLUICE_JOIN_ROWS"); text != "" {
		var err error
		rows, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	const each = 2000
	for _, memory := range []uint64{0, uint64(rows) * 20} {
		t.Run(fmt.Sprintf("memory %d", memory), func(t *testing.T) {
			record := benchRecord(func(j *controlv1.Join) { j.Window, j.Memory = durationpb.New(7*24*time.Hour), memory })
			dir := t.TempDir()
			c, f, tally := benchCoreIn(t, record, dir), newFeed(t, record), &batch.Tally{}
			cpu, cells := cpuTime(), 0
			type segment struct{ data []byte }
			var segments []segment
			var m eventv1.Manifest
			stored := 0
			save := func() {
				m = eventv1.Manifest{Tally: tally.Proto()}
				for _, chunk := range c.Checkpoint(&m) {
					segments = append(segments, segment{chunk.Data})
					stored += len(chunk.Data)
				}
			}
			for n := 0; n < rows; n += each {
				side := []string{"orders", "users"}[n/each%2]
				data := f.batch(side, each, func(i int) (uint64, int64) {
					return uint64(n+i) * 7, 1_700_000_000_000 + int64(n+i)*int64(6*24*time.Hour/time.Millisecond)/int64(rows)
				})
				cells += len(data)
				step(t, c, uint64(n), data, tally, &sized{})
				if n%(50*each) == 0 {
					save()
				}
			}
			save()
			built := cpuTime() - cpu
			require.Equal(t, rows, c.rows.Len(state.Left)+c.rows.Len(state.Right))
			inMemory, onDisk := c.rows.Bytes(), c.rows.OnDisk()
			files := sizeOf(t, dir)
			if memory > 0 {
				require.LessOrEqual(t, uint64(inMemory), memory)
				require.Positive(t, onDisk)
			}

			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			again := benchCore(t, record)
			began := time.Now()
			cpu = cpuTime()
			err := again.Restore(t.Context(), &m, func(each func(*eventv1.Segment, []byte) error) error {
				for _, s := range segments {
					if err := each(nil, s.data); err != nil {
						return err
					}
				}
				return nil
			})
			require.NoError(t, err)
			took, restored := time.Since(began), cpuTime()-cpu
			runtime.GC()
			runtime.ReadMemStats(&after)
			require.Equal(t, rows, again.rows.Len(state.Left)+again.rows.Len(state.Right))
			t.Logf("%d rows: built with %v of CPU; %d bytes/row in messages; in memory %d (%.1f bytes/row, heap %.1f), %d on disk (%.1f bytes/row); checkpoint %.1f bytes/row; restored in %v with %v of CPU",
				rows, built.Round(time.Millisecond), cells/rows, inMemory, float64(inMemory)/float64(rows-onDisk),
				(float64(after.HeapAlloc)-float64(before.HeapAlloc))/float64(rows-again.rows.OnDisk()), onDisk, float64(files)/float64(max(onDisk, 1)), float64(stored)/float64(rows), took.Round(time.Millisecond), restored.Round(time.Millisecond))
			runtime.KeepAlive(again)
		})
	}
}
