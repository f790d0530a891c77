package window

import (
	"encoding/binary"
	"flag"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"sluice/libs/watermark"
)

// Run with -args -keys=100 for the design's figure of 100 million keys.
var millions = flag.Int("keys", 1, "live keys in the benchmarks, in millions")

const benchRows = 2000

// source makes batches of keys that never repeat by themselves: a counter through a mixer.
type source struct {
	n     uint64
	batch Batch
}

func newSource(latest bool) *source {
	s := &source{batch: Batch{
		Writer: "0", Rows: benchRows, Selection: make([]byte, benchRows/8),
		Keys: make([]byte, benchRows*16), Times: make([]byte, benchRows*8),
	}}
	if latest {
		s.batch.Versions = make([]byte, benchRows*8)
	}
	return s
}

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// next fills the batch: one row in ten repeats a key of up to `back` rows ago.
func (s *source) next(t int64, back uint64) Batch {
	for i := range benchRows {
		s.n++
		k := s.n
		if i%10 == 9 && k > back {
			k -= 1 + mix(k)%back
		}
		binary.LittleEndian.PutUint64(s.batch.Keys[i*16:], mix(k))
		binary.LittleEndian.PutUint64(s.batch.Keys[i*16+8:], mix(k+1<<40))
		binary.LittleEndian.PutUint64(s.batch.Times[i*8:], uint64(t))
		if s.batch.Versions != nil {
			binary.LittleEndian.PutUint64(s.batch.Versions[i*8:], s.n)
		}
	}
	for i := range s.batch.Selection {
		s.batch.Selection[i] = 0xff
	}
	s.batch.ArrivalMS = t
	return s.batch
}

// perKey reports the CPU time of the timed part per row.
func perKey(b *testing.B, d time.Duration, rows int) {
	b.ReportMetric(float64(d.Nanoseconds())/float64(rows), "CPU-ns/key")
	b.ReportMetric(float64(rows)/d.Seconds()/1e6, "Mkeys/CPU-s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFill admits new keys from an empty set to the full number; nothing expires.
func BenchmarkFill(b *testing.B) {
	for _, latest := range []bool{false, true} {
		b.Run(map[bool]string{false: "first", true: "latest"}[latest], func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var spent time.Duration
			rows := 0
			for range b.N {
				runtime.GC()
				var m0, m1 runtime.MemStats
				runtime.ReadMemStats(&m0)
				set, err := New(Config{Window: time.Hour, Latest: latest})
				require.NoError(b, err)
				src := newSource(latest)
				for set.Len() < *millions*1e6 {
					batch := src.next(1e12, 1<<20)
					start := cpuTime()
					_, err := set.Admit(batch)
					spent += cpuTime() - start
					require.NoError(b, err)
					rows += benchRows
					set.Take()
				}
				runtime.ReadMemStats(&m1)
				peak := m1.HeapInuse - m0.HeapInuse
				runtime.GC()
				runtime.ReadMemStats(&m1)
				b.ReportMetric(float64(peak)/float64(set.Len()), "heap-B/key")
				b.ReportMetric(float64(m1.HeapInuse-m0.HeapInuse)/float64(set.Len()), "live-heap-B/key")
				b.ReportMetric(float64(set.Bytes()+int(unsafe.Sizeof(*set)))/float64(set.Len()), "computed-B/key")
			}
			perKey(b, spent, rows)
		})
	}
}

// BenchmarkSteady runs a full set through several windows: as many keys expire as come. It reports
// the slowest tenth too, where the pauses for sweeping and growing show.
func BenchmarkSteady(b *testing.B) {
	for _, latest := range []bool{false, true} {
		b.Run(map[bool]string{false: "first", true: "latest"}[latest], func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			live := *millions * 1_000_000
			const window = 1_000_000 // ms
			set, err := New(Config{Window: window * time.Millisecond, Latest: latest})
			require.NoError(b, err)
			src := newSource(latest)
			at := func() int64 { return 1e12 + int64(float64(src.n)*0.9*window/float64(live)) }
			for src.n < uint64(live)*12/10 { // once around
				_, err := set.Admit(src.next(at(), uint64(live/2)))
				require.NoError(b, err)
				set.Take()
			}
			var spent, slowest time.Duration
			rows := 0
			for b.Loop() {
				for range 100 {
					batch := src.next(at(), uint64(live/2))
					start := cpuTime()
					_, err := set.Admit(batch)
					d := cpuTime() - start
					spent, slowest = spent+d, max(slowest, d)
					require.NoError(b, err)
					rows += benchRows
					set.Take()
				}
			}
			visible := 0
			horizon := stamp(set.Horizon())
			for i := range set.tables {
				for _, e := range set.tables[i].slots {
					if e.rest&timeMask >= horizon {
						visible++
					}
				}
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(set.Bytes())/float64(visible), "B/key")
			b.ReportMetric(float64(m.HeapInuse)/float64(visible), "heap-B/key")
			b.ReportMetric(float64(slowest.Microseconds())/1e3, "slowest-batch-CPU-ms")
			perKey(b, spent, rows)
		})
	}
}

// BenchmarkRestore restores a full set from its entries.
func BenchmarkRestore(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set, err := New(Config{Window: time.Hour})
	require.NoError(b, err)
	src := newSource(false)
	var chunks []Chunk
	for set.Len() < *millions*1e6 {
		_, err := set.Admit(src.next(1e12, 1<<20))
		require.NoError(b, err)
		chunks = append(chunks, set.Take()...)
	}
	state, entries := set.State(), set.Len()
	var spent time.Duration
	rows := 0
	for b.Loop() {
		set, err = New(Config{Window: time.Hour})
		require.NoError(b, err)
		start := cpuTime()
		require.NoError(b, set.RestoreState(state))
		set.Reserve(entries)
		for _, c := range chunks {
			require.NoError(b, set.Restore(c.Data))
		}
		spent += cpuTime() - start
		require.Equal(b, entries, set.Len())
		rows += entries
	}
	b.ReportMetric(float64(set.Bytes())/float64(entries), "B/key")
	perKey(b, spent, rows)
}

// TestAdmitDoesNotAllocate: what a batch of known or unknown keys costs is amortised table growth
// and the entries handed out, nothing per event.
func TestAdmitDoesNotAllocate(t *testing.T) {
	set, err := New(Config{Window: time.Hour})
	require.NoError(t, err)
	require.NoError(t, set.RestoreState(State{HorizonMS: 1e12})) // no sweep on the way, which would give the room back
	set.Reserve(2_000_000)
	src := newSource(false)
	perBatch := testing.AllocsPerRun(100, func() {
		_, err := set.Admit(src.next(1e12, 1000))
		require.NoError(t, err)
	})
	// 1800 new entries are 36 kB: about half a chunk, which grows in five steps.
	require.Less(t, perBatch, 8.0)
	src.n = 0
	known := src.next(1e12, 1000)
	duplicates := 0
	require.Zero(t, testing.AllocsPerRun(10, func() {
		for i := range known.Selection {
			known.Selection[i] = 0xff
		}
		duplicates, err = set.Admit(known)
	}))
	require.NoError(t, err)
	require.Equal(t, benchRows, duplicates)
}

// BenchmarkEventTime is BenchmarkSteady with event times of a dozen partitions: by what rows say, and by what writers say of their partitions.
func BenchmarkEventTime(b *testing.B) {
	for _, told := range []bool{false, true} {
		b.Run(map[bool]string{false: "rows tell", true: "writers tell"}[told], func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			live := *millions * 1_000_000
			const window = 1_000_000 // ms
			set, err := New(Config{Window: window * time.Millisecond, EventTime: true})
			require.NoError(b, err)
			if told {
				set.Follow(Confirm{MS: 60_000})
			}
			src := newSource(false)
			writers := []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"}
			next := func(i int) Batch {
				t := 1e12 + int64(float64(src.n)*0.9*window/float64(live))
				batch := src.next(t, uint64(live/2))
				batch.Writer, batch.Told = writers[i%len(writers)], told
				batch.Progress = watermark.Batch{
					Writer: batch.Writer, TopicID: "t", Partition: int32(i % len(writers)), ArrivalMS: t, MaxMS: t, HasMax: true, Partitions: len(writers),
				}
				return batch
			}
			i := 0
			for ; src.n < uint64(live)*24/10; i++ { // once around
				_, err := set.Admit(next(i))
				require.NoError(b, err)
				set.Take()
			}
			var spent time.Duration
			rows := 0
			for b.Loop() {
				for range 100 {
					batch := next(i)
					i++
					start := cpuTime()
					_, err := set.Admit(batch)
					spent += cpuTime() - start
					require.NoError(b, err)
					rows += benchRows
					set.Take()
				}
			}
			perKey(b, spent, rows)
		})
	}
}
