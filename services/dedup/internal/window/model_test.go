package window

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"sluice/libs/watermark"
)

// event is one row as tests write it. A zero key is no key.
type event struct {
	key     uint64
	timeMS  int64
	version uint64
	out     bool // deselected before
}

// fingerprint spreads test keys over both words, and puts several keys on one table and one hash:
// keys that are equal modulo 4 differ only in the low word's tag.
func fingerprint(key uint64) (lo, hi uint64) {
	if key == 0 {
		return 0, 0
	}
	return key << 36, (key%4)*0x9e3779b97f4a7c15 | 1
}

func batchOf(writer string, arrival int64, events []event, latest bool) Batch {
	b := Batch{Writer: writer, ArrivalMS: arrival, Rows: len(events), Selection: make([]byte, (len(events)+7)/8)}
	for i, e := range events {
		lo, hi := fingerprint(e.key)
		b.Keys = binary.LittleEndian.AppendUint64(b.Keys, lo)
		b.Keys = binary.LittleEndian.AppendUint64(b.Keys, hi)
		b.Times = binary.LittleEndian.AppendUint64(b.Times, uint64(e.timeMS))
		if latest {
			b.Versions = binary.LittleEndian.AppendUint64(b.Versions, e.version)
		}
		if !e.out {
			b.Selection[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// model is the definition in the package comment, written down naively: it keeps everything.
type model struct {
	cfg     Config
	entries []event
	horizon int64
	largest int64
	newest  int64
	writers map[string]Writer

	partitions *watermark.Tracker
}

// input is a batch of a history; the writer is its partition's number.
type input struct {
	writer  string
	arrival int64
	events  []event
	told    bool
	maxMS   int64
	hasMax  bool
	idleMS  int64 // since when there has been nothing to read; 0: there is more
}

func (in input) progress() watermark.Batch {
	return watermark.Batch{
		Writer: in.writer, Partition: int32(in.writer[0] - '0'), ArrivalMS: in.arrival, MaxMS: in.maxMS, HasMax: in.hasMax, IdleSinceMS: in.idleMS, Partitions: 3,
	}
}

func (in input) batch(latest bool) Batch {
	b := batchOf(in.writer, in.arrival, in.events, latest)
	b.Told, b.Progress = in.told, in.progress()
	return b
}

func newModel(c Config) *model {
	return &model{cfg: c, horizon: MinTime, largest: MinTime, newest: math.MinInt64, writers: map[string]Writer{}}
}

// admit returns which events are in afterwards.
func (m *model) admit(batch input) []bool {
	writer, arrival, events := batch.writer, batch.arrival, batch.events
	window := m.cfg.Window.Milliseconds()
	in := make([]bool, len(events))
	m.newest = max(m.newest, arrival)
	w, known := m.writers[writer]
	if !known {
		w = Writer{MaxMS: MinTime}
	}
	keyed := false
	for i, e := range events {
		if e.out {
			continue
		}
		if e.key == 0 {
			in[i] = true
			continue
		}
		keyed = true
		e.timeMS = min(max(e.timeMS, MinTime), MaxTime)
		if m.cfg.EventTime {
			e.timeMS = min(e.timeMS, arrival+window)
			w.MaxMS = max(w.MaxMS, min(e.timeMS, arrival))
		} else {
			e.timeMS = max(e.timeMS, m.largest)
			w.MaxMS, m.largest = e.timeMS, e.timeMS
			m.horizon = max(m.horizon, m.largest-window)
		}
		in[i] = m.decide(e, window)
	}
	if keyed || known && batch.told {
		w.Told = batch.told && m.partitions != nil
		m.writers[writer] = w
	}
	if keyed {
		w.ArrivalMS = max(w.ArrivalMS, arrival)
		if !known {
			w.ArrivalMS = arrival
		}
		m.writers[writer] = w
	}
	if m.cfg.EventTime {
		m.forget(batch, window)
	}
	return in
}

// forget moves the horizon of event times.
func (m *model) forget(in input, window int64) {
	if m.partitions != nil && in.told {
		m.partitions.Add(in.progress())
	}
	var times []int64
	follows := m.partitions != nil
	for _, w := range m.writers {
		if m.newest-w.ArrivalMS <= 60_000 {
			times = append(times, w.MaxMS)
			follows = follows && w.Told
		}
	}
	if follows {
		times = nil
		if at := m.partitions.Watermark(); at != watermark.None {
			times = append(times, at)
		}
	}
	if len(times) > 0 {
		m.horizon = max(m.horizon, slices.Min(times)-2*window)
	}
}

func (m *model) decide(e event, window int64) bool {
	for i, old := range m.entries {
		if old.key != e.key || old.timeMS < m.horizon {
			continue
		}
		if m.cfg.Latest {
			if old.version >= e.version {
				return false
			}
			m.entries[i].version, m.entries[i].timeMS = e.version, max(old.timeMS, e.timeMS)
			return true
		}
		if d := e.timeMS - old.timeMS; -window <= d && d <= window {
			return false
		}
	}
	m.entries = append(m.entries, e)
	return true
}

func selected(sel []byte, rows int) []bool {
	in := make([]bool, rows)
	for i := range in {
		in[i] = sel[i/8]>>(i%8)&1 == 1
	}
	return in
}

// TestAgainstModel compares random histories, with restarts from checkpoints, with the model.
func TestAgainstModel(t *testing.T) {
	for _, latest := range []bool{false, true} {
		for _, eventTime := range []bool{false, true} {
			t.Run(fmt.Sprintf("latest=%v,eventTime=%v", latest, eventTime), func(t *testing.T) {
				rapid.Check(t, func(t *rapid.T) { checkHistory(t, latest, eventTime) })
			})
		}
	}
}

func checkHistory(t *rapid.T, latest, eventTime bool) {
	window := rapid.Int64Range(1, 200).Draw(t, "window")
	cfg := Config{Window: time.Duration(window) * time.Millisecond, Latest: latest, EventTime: eventTime}
	keys := rapid.Uint64Range(1, 300).Draw(t, "keys")
	m := newModel(cfg)
	set, err := New(cfg)
	require.NoError(t, err)

	if eventTime && rapid.Bool().Draw(t, "follow") {
		confirm := Confirm{MS: 10_000, EachMS: 4000} // of three partitions: 12 s
		set.Follow(confirm)
		m.partitions = watermark.New(watermark.Config{IdleMS: 60_000, ConfirmMS: confirm.MS, ConfirmEachMS: map[string]int64{"": confirm.EachMS}, Still: true, Writers: map[string]int{"": 1}})
	}
	mostly := rapid.Bool().Draw(t, "mostly told")
	largest := map[string]int64{}
	// What a checkpoint holds, and the batches since.
	var (
		saved  []Chunk
		state  State
		since  []input
		before [][]bool
	)
	state = set.State()
	arrival := int64(1_000_000)
	for range rapid.IntRange(1, 30).Draw(t, "batches") {
		switch rapid.IntRange(0, 9).Draw(t, "step") {
		case 0: // checkpoint
			saved, state, since, before = append(saved, set.Take()...), set.State(), nil, nil
		case 1: // crash: restore, then replay
			set, err = New(cfg)
			require.NoError(t, err)
			require.NoError(t, set.RestoreState(state))
			if rapid.Bool().Draw(t, "reserve") {
				set.Reserve(1000)
			}
			for _, i := range rapid.Permutation(indices(len(saved))).Draw(t, "order") {
				require.NoError(t, set.Restore(saved[i].Data))
			}
			for i, in := range since {
				b := in.batch(latest)
				_, err := set.Admit(b)
				require.NoError(t, err)
				require.Equal(t, before[i], selected(b.Selection, b.Rows), "replayed batch")
			}
		}
		jump := rapid.SampledFrom([]int64{0, 1, window / 2, window, window + 1, 3 * window, 61_000}).Draw(t, "jump")
		arrival += jump
		in := input{
			writer:  rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "writer"),
			arrival: arrival - rapid.Int64Range(0, window).Draw(t, "behind"),
		}
		for range rapid.IntRange(0, 80).Draw(t, "rows") {
			in.events = append(in.events, event{
				key:     rapid.Uint64Range(0, keys).Draw(t, "key"),
				timeMS:  arrival + rapid.Int64Range(-4*window, 2*window).Draw(t, "time"),
				version: rapid.Uint64Range(0, 20).Draw(t, "version"),
				out:     rapid.IntRange(0, 9).Draw(t, "out") == 0,
			})
		}
		in.told = mostly && rapid.IntRange(0, 19).Draw(t, "told") > 0
		for _, e := range in.events {
			if old, ok := largest[in.writer]; !ok || e.timeMS > old {
				largest[in.writer] = min(e.timeMS, in.arrival)
			}
		}
		in.maxMS, in.hasMax = largest[in.writer]
		if rapid.IntRange(0, 3).Draw(t, "idle") == 0 {
			in.idleMS = in.arrival - rapid.SampledFrom([]int64{0, 59_999, 60_000, 200_000}).Draw(t, "since")
		}
		want := m.admit(in)
		b := in.batch(latest)
		kept := count(selected(b.Selection, b.Rows))
		duplicates, err := set.Admit(b)
		require.NoError(t, err)
		got := selected(b.Selection, b.Rows)
		require.Equal(t, want, got)
		require.Equal(t, kept-count(want), duplicates)
		require.Equal(t, m.horizon, set.Horizon())
		checkInvariants(t, set)
		since, before = append(since, in), append(before, got)
	}
}

func indices(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func count(in []bool) (n int) {
	for _, b := range in {
		if b {
			n++
		}
	}
	return n
}

// checkInvariants checks what the tables rely on: order, no gap before a displaced entry, counts.
func checkInvariants(t require.TestingT, s *Set) {
	entries, bytes := 0, 0
	for i := range s.tables {
		tb := &s.tables[i]
		bytes += tb.bytes()
		if tb.slots == nil {
			continue
		}
		require.Zero(t, tb.slots[len(tb.slots)-1].rest, "last slot")
		n, last := 0, uint64(0)
		for at, e := range tb.slots {
			if e.rest == 0 {
				continue
			}
			n++
			require.LessOrEqual(t, last, e.hash, "order")
			last = e.hash
			home := tb.home(e.hash)
			require.LessOrEqual(t, home, at)
			for j := home; j < at; j++ {
				require.NotZero(t, tb.slots[j].rest, "gap between an entry and its home")
			}
		}
		require.Equal(t, n, tb.count)
		entries += n
	}
	require.Equal(t, entries, s.entries)
	require.Equal(t, bytes, s.bytes)
}
