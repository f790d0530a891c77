package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/service"
	"sluice/libs/spec"
)

// changing is a join of two lanes with rows that wait in them, and some that have yet to be read, which has been given three.
type changing struct {
	*world
	sources [2]*producer
	rows    [2][]row
	ends    map[int]uint64 // last message of each lane
}

// row is a row of either side; n tells it from all others.
type row struct {
	ms  int64
	key string
	n   int
}

const changingWindowMS = 10_000

func changingWorld(t *testing.T, kind controlv1.Join_Kind) *changing {
	w := newWorld(t, func(j *controlv1.Join) { j.Kind = kind })
	w.record.Spec.Lanes = 2
	c := &changing{world: w, ends: map[int]uint64{}}
	again := proto.CloneOf(w.record.Schemas[0])
	again.Revision = 2
	w.record.Schemas = append(w.record.Schemas, again)
	for side, source := range sides {
		c.sources[side] = w.producer(source, 0, 1, 2, 3, 4)
	}
	old, next := spec.LaneSet{First: 0, Count: 2}, spec.LaneSet{First: 2, Count: 3}
	c.send(old, 15)
	c.send(old, 15)
	require.NoError(t, c.run(t, w.js, false, old.Lanes(), func() bool { return c.covered(old) }))
	c.sources[1].revision = 2
	c.send(old, 15)           // not folded yet when the lanes are changed
	c.sources[1].revision = 1 // the new lanes know of the other by the old ones alone
	w.record.Spec.Lanes, w.record.Generation = 3, 2
	w.record.LaneSets = []*controlv1.LaneSet{{First: 0, Count: 2}, {First: 2, Count: 3}}
	for _, p := range c.sources {
		body, err := proto.Marshal(&eventv1.IngestPosition{NextOffset: p.offset, LanesFrom: 2})
		require.NoError(t, err)
		require.NoError(t, p.writer.Settle(t.Context(), body))
	}
	c.send(next, 15)
	c.send(next, 15)
	for _, p := range c.sources { // the end, for all lanes
		p.max += 3_600_000
	}
	c.send(next, 0)
	return c
}

// send appends n rows of each side, each to its lane of a set, and tells all lanes of it how far the sources have come.
func (c *changing) send(set spec.LaneSet, n int) {
	for side, p := range c.sources {
		p.arrival += 1_000_000
		byLane := make([][]event, set.Count)
		for range n {
			i := len(c.rows[side])
			r := row{100_000 + 2*int64(side) + 700*int64(i), fmt.Sprintf("k%d", (i*7+side*3)%(13-2*side)), i}
			c.rows[side] = append(c.rows[side], r)
			e := order(r.ms, r.key, fmt.Sprintf("o%d", i), i)
			if side == 1 {
				e = user(r.ms, r.key, fmt.Sprintf(`"u%d"`, i), i%100, `"p"`)
			}
			share := batch.Share(keyOf(r.key)[0], set.Count)
			byLane[share] = append(byLane[share], e)
		}
		for share, lane := range set.Lanes() {
			p.lane = lane
			p.append(0, byLane[share]...)
		}
	}
	for _, lane := range set.Lanes() {
		last, err := fencedlog.LastOf(c.t.Context(), c.js, c.log(fencedlog.Ingest), lane)
		require.NoError(c.t, err)
		c.ends[lane] = last
	}
}

// want is what the join is, by a nested loop.
func (c *changing) want() (out []string) {
	interval := c.record.GetSpec().GetJoin().GetKind() == controlv1.Join_INTERVAL
	for _, l := range c.rows[0] {
		var met []row
		for _, r := range c.rows[1] {
			switch {
			case r.key != l.key || r.ms < l.ms-changingWindowMS:
			case interval && r.ms <= l.ms+changingWindowMS:
				met = append(met, r)
			case !interval && r.ms <= l.ms:
				met = []row{r} // the latest
			}
		}
		for _, r := range met {
			out = append(out, fmt.Sprintf("o%d u%d %d %d p", l.n, r.n, l.n, r.n%100))
		}
		if len(met) == 0 {
			out = append(out, fmt.Sprintf("o%d NULL %d 0 DEFAULT", l.n, l.n))
		}
	}
	slices.Sort(out)
	return out
}

// covered tells whether checkpoints of all lanes of a set cover all that is in them.
func (c *changing) covered(set spec.LaneSet) bool {
	for _, lane := range set.Lanes() {
		at, err := checkpoint.ReachedBy(c.t.Context(), c.js, "p", stageName, lane)
		require.NoError(c.t, err)
		if at.Sequence < c.ends[lane] {
			return false
		}
	}
	return true
}

// run runs lanes as one process until it is crashed or all is as wanted.
func (c *changing) run(t *testing.T, js jetstream.JetStream, crashes bool, of []int, until func() bool) error {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	if f, ok := js.(*natstest.Steps); ok && crashes {
		f.Crash = func() { cancel(lanes.ErrLost) }
	}
	log := slog.New(slog.DiscardHandler)
	j, err := New(service.Deps{Instance: "i", NATS: c.nc, JS: js, Log: log}, nil, c.dir)
	require.NoError(t, err)
	var running sync.WaitGroup
	for _, lane := range of {
		running.Go(func() {
			for ctx.Err() == nil { // what fails is run again, as the manager does
				_ = j.run(ctx, newOwner(), c.record, lane, log, 20*time.Millisecond)
			}
		})
	}
	defer running.Wait()
	limit := time.After(time.Minute)
	for ctx.Err() == nil && !until() {
		select {
		case <-limit:
			cancel(lanes.ErrStopping)
			return errors.New("it does not come to its end")
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel(lanes.ErrStopping)
	return nil
}

// right checks what is there when all is folded.
func (c *changing) right(want []string, what string) {
	t := c.t
	var got []string
	sum, left, matched := batch.Tally{}, 0, 0
	for lane := range 5 {
		rows, messages := c.outputOf(lane)
		got = append(got, texts(rows)...)
		for _, m := range messages {
			require.True(t, lane < 2 || m.SchemaRevision == 2, what)
		}
	}
	slices.Sort(got)
	require.Equal(t, want, got, what)
	manifests, _, err := checkpoint.LeftBy(t.Context(), checkpoint.Config{JS: c.js, Pipeline: "p", Stage: stageName}, spec.LiveLanes(c.record))
	require.NoError(t, err)
	for lane, m := range manifests.Manifests() {
		require.Equal(t, lane < 2, m.GetClosed(), what)
		require.Equal(t, lane >= 2, m.GetInherited(), what)
		sum.Add(batch.TallyOf(m.GetTally()))
	}
	for _, text := range want {
		if strings.Contains(text, "NULL") {
			left++
		} else {
			matched++
		}
	}
	require.EqualValues(t, len(c.rows[0])+len(c.rows[1]), sum.Records, what)
	require.EqualValues(t, len(want), sum.Rows, what)
	require.EqualValues(t, left, sum.Unmatched, what)
	require.NotZero(t, matched)
	require.NotZero(t, left)
	require.Zero(t, sum.Late, what)
	require.Empty(t, c.letters(), what)
}

// TestEveryFaultOfAChangeOfLanes: durable step 0, 1, 2, … of the old lanes' end and the new ones' beginning fails, is done but reported as failed, or is the
// last thing that the process does. The rows are those of a nested loop over all that was ever sent.
func TestEveryFaultOfAChangeOfLanes(t *testing.T) {
	for name, kind := range map[string]struct {
		done, crashes bool
		join          controlv1.Join_Kind
	}{
		"refused":        {join: controlv1.Join_LOOKUP},
		"unheard":        {done: true},
		"crashed before": {crashes: true},
		"crashed after":  {done: true, crashes: true, join: controlv1.Join_LOOKUP},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if kind.join == controlv1.Join_KIND_UNSPECIFIED {
				kind.join = controlv1.Join_INTERVAL
			}
			for at := int64(0); ; at++ {
				c := changingWorld(t, kind.join)
				want := c.want()
				f := &natstest.Steps{JetStream: c.js, Done: kind.done, At: at}
				all, next := spec.LiveLanes(c.record), spec.CurrentLanes(c.record)
				require.NoError(t, c.run(t, f, kind.crashes, all, func() bool { return c.covered(next) }), "fault at %d", at)
				require.NoError(t, c.run(t, c.js, false, all, func() bool { return c.covered(next) }), "after the fault at %d", at)
				c.right(want, fmt.Sprintf("fault at %d", at))
				c.nc.Close()
				c.nats.Stop()
				if f.Taken() <= at {
					require.Greater(t, at, int64(20), "fences, messages and checkpoints were tried")
					return
				}
			}
		})
	}
}
