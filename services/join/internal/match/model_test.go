package match_test

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/stretchr/testify/require"

	"sluice/libs/watermark"
	"sluice/services/join/internal/match"
	"sluice/services/join/internal/state"
)

// batchOf is one message of a drawn log.
type batchOf struct {
	side state.Side
	rows []in
	b    watermark.Batch
}

// drawLog draws the log of two sources of several partitions: rows out of order, keys that are rare and keys that are not, rows of one time, rows without a
// key, heartbeats, idle partitions. It returns how many writers bring each source's partitions, too.
func drawLog(t *rapid.T) ([]batchOf, map[string]int) {
	type at struct {
		side      state.Side
		partition int32
	}
	maxima, offsets := map[at]int64{}, map[at]int64{}
	grain := rapid.SampledFrom([]int64{1, 1, 25}).Draw(t, "grain")
	spread := rapid.SampledFrom([]int64{5, 50, 500}).Draw(t, "spread")
	var log []batchOf
	clock, number := int64(0), 0
	for range rapid.IntRange(1, 60).Draw(t, "batches") {
		clock += rapid.Int64Range(0, 20).Draw(t, "later")
		p := at{state.Side(rapid.IntRange(0, 1).Draw(t, "side")), int32(rapid.IntRange(0, 1).Draw(t, "partition"))}
		m := batchOf{side: p.side, b: watermark.Batch{Writer: fmt.Sprint(p.side, p.partition, "/0"), Partition: p.partition, Partitions: 2, ArrivalMS: 1000 + clock}}
		for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 7}).Draw(t, "rows") {
			number++
			ms := clock + rapid.Int64Range(-spread, spread/4).Draw(t, "time")
			ms -= ms % grain
			key := rapid.SampledFrom([]string{"a", "a", "b", "c", "-"}).Draw(t, "key")
			m.rows = append(m.rows, in{ms, key, fmt.Sprintf("%s%d@%d:%s", names[p.side][:1], number, ms, key), offsets[p]})
			offsets[p]++
			if old, ok := maxima[p]; !ok || ms > old {
				maxima[p] = ms
			}
		}
		m.b.MaxMS = maxima[p]
		_, m.b.HasMax = maxima[p]
		if len(m.rows) == 0 {
			m.b.IdleSinceMS = m.b.ArrivalMS - rapid.Int64Range(0, 60).Draw(t, "idle")
		}
		log = append(log, m)
	}
	// The end: all is idle for long, so that every row is decided.
	for side := range state.Side(2) {
		for partition := range int32(2) {
			p := at{side, partition}
			_, has := maxima[p]
			log = append(log, batchOf{side: side, b: watermark.Batch{
				Writer: fmt.Sprint(side, partition, "/0"), Partition: partition, Partitions: 2, ArrivalMS: 1_000_000, IdleSinceMS: 1,
				MaxMS: maxima[p], HasMax: has,
			}})
		}
	}
	return takeApart(t, log)
}

// takeApart lets the rows of some sources come through two dedup lanes, which are not equally fast.
func takeApart(t *rapid.T, log []batchOf) ([]batchOf, map[string]int) {
	writers := map[string]int{}
	for _, name := range names {
		writers[name] = rapid.IntRange(1, 2).Draw(t, "writers")
	}
	type placed struct {
		batchOf
		at int
	}
	var out []placed
	reached := map[string]int{}
	for i, m := range log {
		parts := make([][]in, writers[names[m.side]])
		for _, row := range m.rows {
			n := 0
			if len(parts) > 1 {
				n = rapid.IntRange(0, 1).Draw(t, "lane")
			}
			parts[n] = append(parts[n], row)
		}
		for n, rows := range parts {
			part := batchOf{m.side, rows, m.b}
			part.b.Writer = strings.TrimSuffix(m.b.Writer, "/0") + fmt.Sprint("/", n)
			if n > 0 {
				reached[part.b.Writer] = max(reached[part.b.Writer], i+rapid.SampledFrom([]int{0, 0, 1, 5}).Draw(t, "behind"))
			} else {
				reached[part.b.Writer] = i
			}
			out = append(out, placed{part, reached[part.b.Writer]})
		}
	}
	slices.SortStableFunc(out, func(a, b placed) int { return a.at - b.at })
	log = nil
	for _, m := range out {
		log = append(log, m.batchOf)
	}
	return log, writers
}

func drawConfig(t *rapid.T) (match.Config, watermark.Config) {
	c := match.Config{Lookup: rapid.Bool().Draw(t, "lookup"), Outer: rapid.Bool().Draw(t, "left"), WindowMS: rapid.Int64Range(1, 60).Draw(t, "window")}
	if c.Lookup {
		c.WaitMS = rapid.SampledFrom([]int64{0, 1, 10, 40}).Draw(t, "wait")
		if rapid.Bool().Draw(t, "forever") {
			c.WindowMS = match.Forever
		}
	}
	return c, watermark.Config{GraceMS: rapid.SampledFrom([]int64{0, 5, 50, 1000}).Draw(t, "grace"), IdleMS: rapid.Int64Range(1, 50).Draw(t, "idle"),
		ConfirmMS: rapid.SampledFrom([]int64{0, 1, 20, 1000}).Draw(t, "confirm")}
}

// TestUpdates: durations that change at any time change what comes out from there on, and restarts and a memory for no row at all change nothing.
func TestUpdates(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		config, times := drawConfig(t)
		log, writers := drawLog(t)
		times.Writers = writers
		type update struct {
			config match.Config
			times  watermark.Config
		}
		updates := map[int]update{}
		for i := range log {
			if rapid.IntRange(0, 7).Draw(t, "update") == 0 {
				to, toTimes := drawConfig(t)
				updates[i] = update{to, toTimes}
				if !config.Lookup {
					to.WaitMS, to.WindowMS = 0, max(to.WindowMS, 1)
					updates[i] = update{to, toTimes}
				}
			}
		}
		play := func(budget int, then func(w *world, i int, lines []string)) *world {
			w := newWorld(t, config, times, budget, dir)
			for i := 0; i < len(log); i++ {
				if u, ok := updates[i]; ok {
					w.adopt(u.config, u.times)
				}
				then(w, i, slices.Clone(w.step(log[i].side, log[i].rows, log[i].b)))
			}
			return w
		}
		var want [][]string
		left := map[string]int{} // left rows by what came of them
		plain := play(0, func(_ *world, _ int, lines []string) {
			want = append(want, lines)
			for _, line := range lines {
				if value, ok := strings.CutSuffix(line, " alone"); ok {
					left[value]++
				}
			}
		})
		for value, n := range left {
			require.Equal(t, 1, n, "%s came out alone more than once", value)
		}
		require.Zero(t, plain.rows.Len(state.Left), "nothing waits for ever")
		counts, rights := plain.joiner.Counts, plain.rows.Len(state.Right)
		plain.close()

		saved := 0
		w := play(rapid.SampledFrom([]int{0, 1, 600}).Draw(t, "budget"), func(w *world, i int, lines []string) {
			require.Equal(t, want[i], lines, "step %d", i)
			if _, ok := updates[i]; ok {
				saved = i
			}
			switch rapid.IntRange(0, 5).Draw(t, "then") {
			case 0:
				w.checkpoint()
				saved = i + 1
			case 1:
				w.crash()
				for k := saved; k <= i; k++ {
					require.Equal(t, want[k], slices.Clone(w.step(log[k].side, log[k].rows, log[k].b)), "replay of step %d", k)
				}
			}
		})
		require.Equal(t, counts, w.joiner.Counts)
		require.Equal(t, rights, w.rows.Len(state.Right))
		w.close()
	})
}

// TestAgainstModel: whatever the order, what comes out is what a nested loop over all rows that were not late gives. Restarts at any point,
// from a checkpoint of any age, and a memory for no row at all change nothing, not even the order.
func TestAgainstModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		config, times := drawConfig(t)
		log, writers := drawLog(t)
		times.Writers = writers

		plain := newWorld(t, config, times, 0, dir)
		var want [][]string
		late, renewed := map[string]bool{}, false
		for _, m := range log {
			before := plain.joiner.Watermark()
			lines := slices.Clone(plain.step(m.side, m.rows, m.b))
			want = append(want, lines)
			for _, line := range lines {
				if value, ok := strings.CutSuffix(line, " late"); ok {
					late[value] = true
				}
			}
			for _, row := range m.rows {
				renewed = renewed || row.ms < before && !late[row.value]
			}
		}
		got := slices.DeleteFunc(slices.Concat(want...), func(line string) bool { return strings.HasSuffix(line, " late") })
		slices.Sort(got)
		if !renewed { // what right rows that are late and taken all the same change is a matter of the order
			model := nestedLoop(config, log, late)
			require.Equal(t, model.lines, append([]string{}, got...))
			require.Equal(t, model.counts, plain.joiner.Counts)
		}
		if !config.Lookup || config.WindowMS != match.Forever {
			require.Zero(t, plain.rows.Len(state.Left)+plain.rows.Len(state.Right), "nothing waits for ever")
		}
		require.Zero(t, plain.rows.Len(state.Left))
		plain.close()

		budget := rapid.SampledFrom([]int{0, 1, 600}).Draw(t, "budget")
		w := newWorld(t, config, times, budget, dir)
		saved := 0
		for i := 0; i < len(log); i++ {
			require.Equal(t, want[i], slices.Clone(w.step(log[i].side, log[i].rows, log[i].b)), "step %d", i)
			switch rapid.IntRange(0, 5).Draw(t, "then") {
			case 0:
				w.checkpoint()
				saved = i + 1
			case 1:
				w.crash()
				for k := saved; k <= i; k++ { // the inputs behind the checkpoint are replayed
					require.Equal(t, want[k], slices.Clone(w.step(log[k].side, log[k].rows, log[k].b)), "replay of step %d", k)
				}
			}
		}
		require.Equal(t, plain.joiner.Counts, w.joiner.Counts)
		require.Equal(t, plain.rows.Len(state.Right), w.rows.Len(state.Right))
		w.close()
	})
}

// read is a row with the partition that it was read from.
type read struct {
	in
	partition int32
}

type modelled struct {
	lines  []string
	counts match.Counts
}

// nestedLoop is the definition: all left rows against all right rows.
func nestedLoop(c match.Config, log []batchOf, late map[string]bool) modelled {
	var sides [2][]read
	out := modelled{lines: []string{}}
	for _, m := range log {
		for _, row := range m.rows {
			if late[row.value] {
				out.counts.Late++
				continue
			}
			sides[m.side] = append(sides[m.side], read{row, m.b.Partition})
		}
	}
	met := map[string]bool{}
	for _, l := range sides[state.Left] {
		var partners []read
		if c.Lookup {
			partners = lookup(c, l, sides[state.Right])
		} else {
			for _, r := range sides[state.Right] {
				if l.key != "-" && l.key == r.key && max(l.ms-r.ms, r.ms-l.ms) <= c.WindowMS {
					partners = append(partners, r)
				}
			}
		}
		for _, r := range partners {
			met[r.value] = true
			out.lines = append(out.lines, l.value+" + "+r.value)
		}
		switch {
		case len(partners) > 0:
			out.counts.Matched++
		case c.Outer:
			out.counts.Unmatched++
			out.lines = append(out.lines, l.value+" alone")
		default:
			out.counts.Dropped++
		}
	}
	for _, r := range sides[state.Right] {
		if r.key == "-" || !c.Lookup && !met[r.value] {
			out.counts.Dropped++
		}
	}
	slices.Sort(out.lines)
	return out
}

// lookup is the newest right row as of the left row's time, else the first within the wait; of one time the last in its topic.
func lookup(c match.Config, l read, right []read) []read {
	window := c.WindowMS
	if window == match.Forever {
		window = math.MaxInt32
	}
	find := func(from, to, sign int64) (best *read) {
		for i, r := range right {
			if l.key == "-" || r.key != l.key || r.ms < from || r.ms > to {
				continue
			}
			if best == nil || cmp.Or(cmp.Compare(sign*r.ms, sign*best.ms), cmp.Compare(r.partition, best.partition), cmp.Compare(r.offset, best.offset)) > 0 {
				best = &right[i]
			}
		}
		return best
	}
	best := find(l.ms-window, l.ms, 1)
	if best == nil {
		best = find(l.ms+1, l.ms+c.WaitMS, -1)
	}
	if best == nil {
		return nil
	}
	return []read{*best}
}
