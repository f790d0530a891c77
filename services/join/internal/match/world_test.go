package match_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"sluice/libs/watermark"
	"sluice/services/join/internal/disk"
	"sluice/services/join/internal/match"
	"sluice/services/join/internal/state"
)

// world is a lane as the service puts it together: rows and their watermark.
type world struct {
	t       require.TestingT
	config  match.Config
	times   watermark.Config
	budget  int
	dir     string
	rows    *state.Store
	joiner  *match.Joiner
	tracker *watermark.Tracker
	lines   []string // what came out of the last step

	// What a checkpoint holds: the frames with their buckets, as long as they are of use.
	frames []state.Frame
	clock  int64 // of the log
	frozen *frozen
}

// frozen is a checkpoint.
type frozen struct {
	frames []state.Frame
	saved  []byte
	counts match.Counts
	clock  int64
}

var names = [2]string{"left", "right"}

func newWorld(t require.TestingT, config match.Config, times watermark.Config, budget int, dir string) *world {
	w := &world{t: t, config: config, times: times, budget: budget, dir: dir}
	if times.Writers == nil {
		w.times.Writers = map[string]int{"left": 1, "right": 1}
	}
	w.open()
	return w
}

func (w *world) open() {
	w.rows = state.New(state.Options{Budget: w.budget, BornMS: 1000, Disk: func() (state.Disk, error) { return disk.Open(w.dir) }})
	w.joiner, w.tracker = match.New(w.config, w.rows), watermark.New(w.times)
}

func (w *world) close() { require.NoError(w.t, w.rows.Close()) }

// checkpoint saves as the service does.
func (w *world) checkpoint() {
	require.NoError(w.t, w.rows.Renew(1<<20))
	w.frames = append(w.frames, w.rows.Take()...)
	oldest := w.rows.Oldest()
	for len(w.frames) > 0 && w.frames[0].Born < oldest {
		w.frames = w.frames[1:]
	}
	w.frozen = &frozen{frames: w.frames[:len(w.frames):len(w.frames)], saved: w.joiner.Append(w.tracker.Append(nil)), counts: w.joiner.Counts, clock: w.clock}
}

// adopt changes over as the service does: with a checkpoint that says so.
func (w *world) adopt(config match.Config, times watermark.Config) {
	config.Lookup, config.Outer = w.config.Lookup, w.config.Outer
	w.config = config
	times.Writers = w.times.Writers
	w.times = times
	w.joiner.Adopt(config)
	w.tracker.Adopt(times)
	w.checkpoint()
}

// crash goes back to the last checkpoint.
func (w *world) crash() {
	w.close()
	w.open()
	f := w.frozen
	if f == nil {
		w.frames, w.clock = nil, 0
		return
	}
	rest, err := w.tracker.Restore(f.saved)
	require.NoError(w.t, err)
	rest, err = w.joiner.Restore(rest)
	require.NoError(w.t, err)
	require.Empty(w.t, rest)
	for _, frame := range f.frames {
		require.NoError(w.t, w.rows.Restore(frame.Data, w.joiner.Wanted))
	}
	w.joiner.Counts, w.frames, w.clock = f.counts, f.frames, f.clock
}

func (w *world) Pair(l, r *state.Row) error {
	w.lines = append(w.lines, string(l.Cells)+" + "+string(r.Cells))
	return nil
}

func (w *world) Unmatched(l *state.Row) error {
	w.lines = append(w.lines, string(l.Cells)+" alone")
	return nil
}

// in is a row as scenarios write it.
type in struct {
	ms         int64
	key, value string
	offset     int64
}

func keyOf(name string) state.Key {
	if name == "-" {
		return state.Key{}
	}
	h := xxh3.HashString128(name)
	return state.Key{h.Lo, h.Hi}
}

// step takes a batch in and returns what came out.
func (w *world) step(side state.Side, rows []in, b watermark.Batch) []string {
	w.lines = nil
	w.clock += 100
	w.rows.SetTime(w.clock)
	b.Source = names[side]
	for _, row := range rows {
		r := state.Row{Side: side, Key: keyOf(row.key), TimeMS: row.ms, Partition: b.Partition, Offset: row.offset, Revision: 1, Cells: []byte(row.value)}
		verdict, err := w.joiner.Add(r, b.ArrivalMS, w)
		require.NoError(w.t, err)
		switch verdict {
		case match.Late:
			w.lines = append(w.lines, row.value+" late")
		case match.Future:
			w.lines = append(w.lines, row.value+" too far ahead")
		}
		require.NoError(w.t, w.rows.Balance())
	}
	require.NoError(w.t, w.joiner.Advance(w.tracker.Add(b), w))
	return w.lines
}

func duration(t require.TestingT, text string) int64 {
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d.Milliseconds()
}

func configOf(t require.TestingT, line string) (match.Config, watermark.Config) {
	words := strings.Fields(line)
	c := match.Config{Lookup: words[0] == "LOOKUP", Outer: words[1] == "LEFT", WindowMS: match.Forever}
	times := watermark.Config{IdleMS: 30_000, LiveHolds: true}
	for _, word := range words[2:] {
		name, value, ok := strings.Cut(word, "=")
		require.True(t, ok, line)
		ms := duration(t, value)
		switch name {
		case "window":
			c.WindowMS = ms
		case "wait":
			c.WaitMS = ms
		case "grace":
			times.GraceMS = ms
		case "idle":
			times.IdleMS = ms
		case "max_future":
			c.MaxFutureMS, times.MaxFutureMS = ms, ms
		default:
			require.Fail(t, "unknown setting "+name)
		}
	}
	times.ConfirmMS = max(times.GraceMS, 3000) // spec.Confirm
	return c, times
}

func TestMain(m *testing.M) { os.Exit(m.Run()) }

// player plays scenarios: see docs/joins.md for the language.
type player struct {
	*world
	partitions [2]int
	maxima     map[string]int64
	offsets    map[string]int64 // the next of each partition
	clock      int64            // when what comes arrives
}

func (p *player) play(line string) []string {
	words := strings.Fields(line)
	switch words[0] {
	case "watermark":
		return []string{moment(p.joiner.Watermark())}
	case "buffered":
		return []string{fmt.Sprintf("left %d, right %d", p.rows.Len(state.Left), p.rows.Len(state.Right))}
	case "counts":
		c := p.joiner.Counts
		return []string{fmt.Sprintf("matched %d, unmatched %d, late %d, dropped %d", c.Matched, c.Unmatched, c.Late, c.Dropped)}
	case "restart":
		p.checkpoint()
		p.crash()
		return nil
	case "clock":
		p.clock = duration(p.t, words[1])
		return nil
	case "update":
		config, times := configOf(p.t, strings.Join(append([]string{"-", "-"}, words[1:]...), " "))
		p.adopt(config, times)
		return nil
	case "partitions":
		p.partitions[sideOf(p.t, words[1])] = int(number(p.t, words[2]))
		return nil
	}
	name, partition := words[0], int32(0)
	if before, after, ok := strings.Cut(words[0], "/"); ok {
		name, partition = before, int32(number(p.t, after))
	}
	side := sideOf(p.t, name)
	b := watermark.Batch{Writer: words[0], Partition: partition, Partitions: p.partitions[side], ArrivalMS: p.clock}
	at := fmt.Sprint(side, partition)
	var rows []in
	switch words[1] {
	case "idle":
		silent := duration(p.t, words[2])
		if p.clock == 0 { // events come when they happen
			b.ArrivalMS = max(p.maxima[at], 1) + silent
		}
		b.IdleSinceMS = b.ArrivalMS - silent
	default:
		for _, item := range strings.Split(strings.TrimSpace(strings.TrimPrefix(line, words[0])), ",") {
			parts := strings.Fields(item)
			if len(parts) == 4 {
				p.offsets[at] = number(p.t, strings.TrimPrefix(parts[3], "@"))
				parts = parts[:3]
			}
			require.Len(p.t, parts, 3, line)
			rows = append(rows, in{duration(p.t, parts[0]), parts[1], parts[2], p.offsets[at]})
			p.offsets[at]++
		}
	}
	for _, row := range rows {
		if most := p.times.MaxFutureMS; most > 0 && row.ms > p.clock+most {
			continue // the ingestor says nothing of it
		}
		if old, ok := p.maxima[at]; !ok || row.ms > old {
			p.maxima[at] = row.ms
		}
	}
	b.MaxMS, b.HasMax = p.maxima[at], false
	if _, ok := p.maxima[at]; ok {
		b.HasMax = true
	}
	return p.step(side, rows, b)
}

func sideOf(t require.TestingT, name string) state.Side {
	require.Contains(t, names, name)
	if name == "left" {
		return state.Left
	}
	return state.Right
}

func number(t require.TestingT, text string) (n int64) {
	_, err := fmt.Sscan(text, &n)
	require.NoError(t, err)
	return n
}

func moment(ms int64) string {
	if ms == watermark.None {
		return "none"
	}
	return (time.Duration(ms) * time.Millisecond).String()
}
