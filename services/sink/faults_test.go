package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sluice/libs/clickhouse"
	"sluice/libs/lanes"
)

var (
	errCrash = errors.New("crash")
	errFault = errors.New("no answer (injected)")
)

type faultMode int

const (
	failed  faultMode = iota // not done
	lost                     // done, but reported as failed
	crashed                  // done, and nothing after it
	changed                  // the same, and the table takes everything when the heir comes
)

func (m faultMode) String() string {
	return [...]string{"failed", "done, but reported as failed", "crash right after", "crash right after, and the table has changed"}[m]
}

// faults goes wrong at one durable step, whichever it is: every write to the state bucket, every append, every insert, every
// purge counts. It stands where the lane's NATS and its inserter are.
type faults struct {
	jetstream.JetStream
	inserter inserter
	at       int64 // which step, from 0
	mode     faultMode
	steps    atomic.Int64
	hit      atomic.Bool
	crash    func()
	what     atomic.Pointer[string] // the step that was hit
}

func (f *faults) step(what string, do func() error) error {
	switch {
	case f.hit.Load() && f.mode >= crashed:
		return errCrash // nothing works after the crash
	case f.steps.Add(1)-1 != f.at:
		return do()
	}
	f.what.Store(&what)
	if f.mode != failed {
		_ = do() // what it answers, be it a refusal, nobody hears
	}
	f.hit.Store(true)
	if f.mode == failed {
		return errFault
	}
	if f.mode == lost {
		return errFault
	}
	f.crash()
	return errCrash
}

func (f *faults) KeyValue(ctx context.Context, bucket string) (jetstream.KeyValue, error) {
	kv, err := f.JetStream.KeyValue(ctx, bucket)
	return &faultyKV{kv, f}, err
}

func (f *faults) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	s, err := f.JetStream.Stream(ctx, name)
	return &faultyStream{s, f}, err
}

func (f *faults) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	stepErr := f.step("append to "+msg.Subject, func() error {
		ack, err = f.JetStream.PublishMsg(ctx, msg, opts...)
		return err
	})
	return ack, stepErr
}

func (f *faults) Insert(ctx context.Context, i clickhouse.Insert) error {
	return f.step("insert "+i.Token, func() error { return f.inserter.Insert(ctx, i) })
}

func (f *faults) Close() { f.inserter.Close() }

type faultyStream struct {
	jetstream.Stream
	f *faults
}

func (s *faultyStream) Purge(ctx context.Context, opts ...jetstream.StreamPurgeOpt) error {
	return s.f.step("purge", func() error { return s.Stream.Purge(ctx, opts...) })
}

type faultyKV struct {
	jetstream.KeyValue
	f *faults
}

func (k *faultyKV) Update(ctx context.Context, key string, value []byte, revision uint64) (out uint64, err error) {
	stepErr := k.f.step("position", func() error {
		out, err = k.KeyValue.Update(ctx, key, value, revision)
		return err
	})
	return out, stepErr
}

func (k *faultyKV) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	if k.f.hit.Load() && k.f.mode >= crashed {
		return nil, errCrash
	}
	return k.KeyValue.Get(ctx, key)
}

// Every durable step of a lane goes wrong once, in every way: taking the lane, a range, an insert, a decision to take a block
// apart, a fence, a dead letter, an advance, a purge. The step that goes wrong is the first, the second, … until
// a run comes through without one. Every row is in the table once or a dead letter once.
func TestFaultAtEachStep(t *testing.T) {
	for _, mode := range []faultMode{failed, lost, crashed, changed} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			at := int64(0)
			for sent := 0; w.faultAt(at, mode, sent); at++ {
				sent += faultyRows
			}
			t.Logf("%d steps", at)
			require.Greater(t, at, int64(12), "steps")
		})
	}
}

const faultyRows = 6 // in two groups, one of which has a row that is refused

// faultAt sends some rows and lets one step of theirs go wrong. It tells whether there is such a step.
func (w *world) faultAt(at int64, mode faultMode, sent int) bool {
	t := w.t
	events := rowsOf(sent, faultyRows)
	events[5].ID += 1_000_000
	sent += faultyRows
	w.send(0, events)
	require.NoError(t, w.writer.Settle(t.Context(), nil))
	f := &faults{JetStream: w.js, at: at, mode: mode}
	f.what.Store(new(string))
	w.runFaulty(f, uint64(sent))
	name := fmt.Sprintf("step %d, %s: %s", at, mode, *f.what.Load())
	if mode == changed {
		require.NoError(t, w.sql.Exec(t.Context(), "ALTER TABLE "+w.database+".t DROP CONSTRAINT small"))
	}
	heir := newOwner()
	stop := w.start(heir, "heir", 0, w.js)
	heir.waitFor(t, sent)
	require.NoError(t, stop(lanes.ErrStopping), name)
	w.eachRowOnce(sent, name)
	if mode == changed {
		require.NoError(t, w.sql.Exec(t.Context(), "ALTER TABLE "+w.database+".t ADD CONSTRAINT small CHECK id < 1000000"))
	}
	require.EqualValues(t, len(w.letters()), heir.snapshot().GetTally().GetDeadLetters(), name)
	return f.hit.Load()
}

// runFaulty runs a lane until all rows are settled, then its housekeeping, with the fault somewhere in between.
func (w *world) runFaulty(f *faults, rows uint64) {
	w.t.Helper()
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	f.crash = func() { cancel(lanes.ErrLost) }
	o := newOwner()
	l := w.lane(o, "doomed", 0, f)
	f.inserter, l.inserter = l.inserter, f
	l.pace = pace{time.Millisecond, 10 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	require.Eventually(w.t, func() bool { return o.settled() == rows || f.mode >= crashed && f.hit.Load() }, patience, time.Millisecond, *f.what.Load())
	if f.mode >= crashed && f.hit.Load() {
		require.NoError(w.t, errOrNil(<-done, errCrash, lanes.ErrLost))
		return
	}
	cancel(lanes.ErrStopping)
	require.NoError(w.t, errOrNil(<-done, errCrash))
	if f.mode >= crashed && f.hit.Load() {
		return
	}
	// A lane of its own for the purge: what comes by the clock would not be the same step each time.
	house := w.lane(newOwner(), "doomed", 0, f)
	defer house.inserter.Close()
	ctx, stop := context.WithCancelCause(w.t.Context())
	defer stop(nil)
	f.crash = func() { stop(lanes.ErrLost) }
	if house.take(ctx) == nil {
		_ = house.keepHouse(ctx)
	}
}

// errOrNil is nil for the errors that are expected.
func errOrNil(err error, expected ...error) error {
	if slices.ContainsFunc(expected, func(e error) bool { return errors.Is(err, e) }) {
		return nil
	}
	return err
}

// eachRowOnce: the ids that were sent are in the table once or a dead letter once.
func (w *world) eachRowOnce(sent int, what string) {
	w.t.Helper()
	seen := map[uint64]string{}
	add := func(id uint64, where string) {
		before, twice := seen[id]
		require.False(w.t, twice, "row %d: in the %s and in the %s; %s", id, before, where, what)
		seen[id] = where
	}
	rows, err := w.sql.Query(w.t.Context(), "SELECT id FROM "+w.database+".t")
	require.NoError(w.t, err)
	defer rows.Close()
	for rows.Next() {
		var id uint64
		require.NoError(w.t, rows.Scan(&id))
		add(id, "table")
	}
	require.NoError(w.t, rows.Err())
	for _, l := range w.letters() {
		id, err := strconv.ParseUint(string(l.GetKey()), 10, 64)
		require.NoError(w.t, err)
		add(id, "dead letters")
	}
	require.Len(w.t, seen, sent, what)
	w.balances(what)
}
