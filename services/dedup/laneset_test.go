package dedup

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
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

// changing is a pipeline of two lanes with keys in them that has been given three.
type changing struct {
	*world
	p    *producer
	keys map[int64]uint64 // by offset
	ends map[int]uint64   // last message of each lane
}

func changingWorld(t *testing.T) *changing {
	w := newWorld(t, time.Hour)
	w.record.Spec.Lanes = 2
	writer, _, err := fencedlog.Open(t.Context(), w.js, w.input, "0", fencedlog.Options{Lanes: []int{0, 1, 2, 3, 4}})
	require.NoError(t, err)
	c := &changing{world: w, p: &producer{w: w, writer: writer, arrival: 1_000_000}, keys: map[int64]uint64{}, ends: map[int]uint64{}}
	old, next := spec.LaneSet{First: 0, Count: 2}, spec.LaneSet{First: 2, Count: 3}
	c.send(old, 1, 20)
	c.send(old, 10, 30)
	require.NoError(t, c.run(t, w.js, false, old.Lanes(), func() bool { return c.covered(old) }))
	c.send(old, 25, 40) // not folded yet when the lanes are changed
	w.record.Spec.Lanes, w.record.Generation = 3, 2
	w.record.LaneSets = []*controlv1.LaneSet{{First: 0, Count: 2}, {First: 2, Count: 3}}
	body, err := proto.Marshal(&eventv1.IngestPosition{Topic: "t", NextOffset: c.p.offset, LanesFrom: 2})
	require.NoError(t, err)
	require.NoError(t, writer.Settle(t.Context(), body))
	c.send(next, 1, 50)
	return c
}

// send appends the keys from first to last, each to its lane of a set.
func (c *changing) send(set spec.LaneSet, first, last uint64) {
	c.p.arrival++
	for share, lane := range set.Lanes() {
		var keys []uint64
		for k := first; k <= last; k++ {
			if batch.Share(k*0x9e3779b97f4a7c15, set.Count) == share {
				c.keys[c.p.offset+int64(len(keys))] = k
				keys = append(keys, k)
			}
		}
		c.p.lane = lane
		c.ends[lane] = c.p.send(keys...)
	}
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
	d, err := New(service.Deps{Instance: "i", JS: js, Log: slog.New(slog.DiscardHandler)}, nil)
	require.NoError(t, err)
	var running sync.WaitGroup
	for _, lane := range of {
		running.Go(func() {
			for ctx.Err() == nil { // what fails is run again, as the manager does
				_ = d.run(ctx, newOwner(), c.record, lane, slog.New(slog.DiscardHandler), 20*time.Millisecond)
			}
		})
	}
	defer running.Wait()
	limit := time.After(2 * time.Minute)
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

// passed is how often each key has come out.
func (c *changing) passed() map[uint64]int {
	out := map[uint64]int{}
	for lane := range 5 {
		last, err := fencedlog.LastOf(c.t.Context(), c.js, c.output, lane)
		require.NoError(c.t, err)
		if last == 0 {
			continue
		}
		r, err := fencedlog.OpenReader(c.t.Context(), c.js, c.output, lane, 1)
		require.NoError(c.t, err)
		for at := uint64(0); at < last; {
			m, err := r.Next(c.t.Context())
			require.NoError(c.t, err)
			at = m.Sequence
			var v batch.View
			require.NoError(c.t, v.Parse(m.Data))
			require.Equal(c.t, strconv.Itoa(lane), m.Writer)
			for row := range v.Rows {
				if v.Selects(row) {
					out[c.keys[v.Offset(row)]]++
				}
			}
		}
		r.Close()
	}
	return out
}

// TestEveryFaultOfAChangeOfLanes: durable step 0, 1, 2, … of the old lanes' end and the new ones' beginning fails, is done but reported as failed, or is the
// last thing that the process does. Each key passes once, also those that only lanes of before have seen.
func TestEveryFaultOfAChangeOfLanes(t *testing.T) {
	want := map[uint64]int{}
	for k := uint64(1); k <= 50; k++ {
		want[k] = 1
	}
	for name, kind := range map[string]struct{ done, crashes bool }{
		"refused": {}, "unheard": {done: true}, "crashed before": {crashes: true}, "crashed after": {done: true, crashes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := int64(0); ; at++ {
				c := changingWorld(t)
				f := &natstest.Steps{JetStream: c.js, Done: kind.done, At: at}
				all, next := spec.LiveLanes(c.record), spec.CurrentLanes(c.record)
				require.NoError(t, c.run(t, f, kind.crashes, all, func() bool { return c.covered(next) }), "fault at %d", at)
				require.NoError(t, c.run(t, c.js, false, all, func() bool { return c.covered(next) }), "after the fault at %d", at)
				require.Equal(t, want, c.passed(), "fault at %d", at)
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
