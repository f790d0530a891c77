package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats/natstest"
)

var testLog = Log{Pipeline: "p", Stage: Ingest}

func connect(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return js
}

func contextFor(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// faulty makes chosen publishes fail, on the way there or on the way back.
type faulty struct {
	jetstream.JetStream
	calls  atomic.Int64
	fail   func(call int64) bool
	lost   bool // the message arrives, only the answer does not
	broken error
}

func (f *faulty) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	call := f.calls.Add(1) - 1
	if !f.fail(call) {
		return f.JetStream.PublishMsg(ctx, msg, opts...)
	}
	if f.lost {
		if _, err := f.JetStream.PublishMsg(ctx, msg, opts...); err != nil {
			return nil, err
		}
	}
	return nil, f.broken
}

// read returns the messages of a lane that are in the log now.
func read(t *testing.T, js jetstream.JetStream, lane int) []string {
	t.Helper()
	ctx := contextFor(t)
	stream, err := js.Stream(ctx, testLog.Stream())
	require.NoError(t, err)
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(testLog.LaneFilter(lane)))
	require.NoError(t, err)
	var want uint64
	for _, n := range info.State.Subjects {
		want += n
	}
	r, err := OpenReader(ctx, js, testLog, lane, info.State.FirstSeq)
	require.NoError(t, err)
	defer r.Close()
	var got []string
	for range want {
		msg, err := r.Next(ctx)
		require.NoError(t, err)
		got = append(got, string(msg.Data))
	}
	return got
}

func TestAppendAndRecover(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	w, rec, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0, 1}})
	require.NoError(t, err)
	require.Nil(t, rec.Body)
	require.Empty(t, rec.Last)
	_, err = w.Append(ctx, 0, "10", []byte("a"))
	require.NoError(t, err)
	require.NoError(t, w.Settle(ctx, []byte("settled at 10")))
	_, err = w.Append(ctx, 0, "20", []byte("b"))
	require.NoError(t, err)
	seq, err := w.Append(ctx, 1, "21", []byte("c"))
	require.NoError(t, err)

	_, rec, err = Open(ctx, js, testLog, "0", Options{Lanes: []int{0, 1, 2}})
	require.NoError(t, err)
	require.Equal(t, "settled at 10", string(rec.Body))
	require.Len(t, rec.Last, 2)
	require.Equal(t, "20", rec.Last[0].Position)
	require.Equal(t, "b", string(rec.Last[0].Data))
	require.Equal(t, "21", rec.Last[1].Position)
	require.Equal(t, seq, rec.Last[1].Sequence)
	require.Equal(t, []string{"a", "b"}, read(t, js, 0))
}

// A writer that another has replaced can no longer get anything in, however it tries.
func TestZombieIsRefused(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	zombie, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}})
	require.NoError(t, err)
	_, err = zombie.Append(ctx, 0, "1", []byte("1"))
	require.NoError(t, err)
	owner, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}})
	require.NoError(t, err)
	_, err = zombie.Append(ctx, 0, "2", []byte("from the zombie"))
	require.ErrorIs(t, err, ErrFenced)
	require.ErrorIs(t, zombie.Settle(ctx, nil), ErrFenced)
	_, err = zombie.Append(ctx, 0, "2", []byte("from the zombie"))
	require.ErrorIs(t, err, ErrFenced)
	_, err = owner.Append(ctx, 0, "2", []byte("2"))
	require.NoError(t, err)
	require.Equal(t, []string{"1", "2"}, read(t, js, 0))
	other, _, err := Open(ctx, js, testLog, "1", Options{Lanes: []int{0}})
	require.NoError(t, err)
	_, err = other.Append(ctx, 0, "1", []byte("another writer"))
	require.NoError(t, err, "writers do not fence each other")
}

// Every publish of a run fails once, lost on the way there or on the way back, alone or with its
// successor; the log must not tell the difference.
func TestEveryFaultHeals(t *testing.T) {
	url := natstest.Start(t)
	for _, lost := range []bool{false, true} {
		for _, width := range []int64{1, 2, 3} {
			for at := int64(0); ; at++ {
				ctx, js := contextFor(t), connect(t, url)
				require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
				f := &faulty{JetStream: js, lost: lost, broken: context.DeadlineExceeded,
					fail: func(call int64) bool { return call >= at && call < at+width }}
				w, _, err := Open(ctx, f, testLog, "0", Options{Lanes: []int{0}})
				require.NoError(t, err)
				for i := range 4 {
					_, err := w.Append(ctx, 0, fmt.Sprint(i), fmt.Append(nil, i))
					require.NoError(t, err)
					if i == 1 {
						require.NoError(t, w.Settle(ctx, []byte("1")))
					}
				}
				require.Equal(t, []string{"0", "1", "2", "3"}, read(t, js, 0), "lost %v, %d failures from %d", lost, width, at)
				_, rec, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}})
				require.NoError(t, err)
				require.Equal(t, "1", string(rec.Body))
				require.Equal(t, "3", rec.Last[0].Position)
				require.NoError(t, Remove(ctx, js, testLog))
				if f.calls.Load() <= at {
					break // the run went through before the fault: every operation had its turn
				}
			}
		}
	}
}

// Lanes of one writer append at the same time while answers get lost at random places.
func TestConcurrentLanesShareTheFence(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	f := &faulty{JetStream: js, lost: true, broken: nats.ErrTimeout, fail: func(call int64) bool { return call%7 == 3 }}
	lanes := []int{0, 1, 2, 3}
	w, _, err := Open(ctx, f, testLog, "0", Options{Lanes: lanes})
	require.NoError(t, err)
	var wg sync.WaitGroup
	errs := make([]error, len(lanes))
	for _, lane := range lanes {
		wg.Go(func() {
			for i := range 25 {
				if _, err := w.Append(ctx, lane, fmt.Sprint(i), fmt.Append(nil, i)); err != nil {
					errs[lane] = err
					return
				}
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprint(i))
	}
	for _, lane := range lanes {
		require.Equal(t, want, read(t, js, lane))
	}
}

func TestAppendOutlivesARestart(t *testing.T) {
	server := natstest.New(t)
	ctx, js := contextFor(t), connect(t, server.URL())
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	waits := make(chan error, 1000)
	w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}, Wait: func(err error) { waits <- err }})
	require.NoError(t, err)
	_, err = w.Append(ctx, 0, "1", []byte("1"))
	require.NoError(t, err)
	server.Stop()
	done := make(chan error, 1)
	go func() {
		_, err := w.Append(ctx, 0, "2", []byte("2"))
		done <- err
	}()
	require.Error(t, <-waits, "the wait is visible")
	server.Start()
	require.NoError(t, <-done)
	require.Equal(t, []string{"1", "2"}, read(t, js, 0))
}

func TestFullLogWaitsForPurge(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{MaxBytes: 64 << 10}))
	waits := make(chan error, 1000)
	w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}, Wait: func(err error) { waits <- err }})
	require.NoError(t, err)
	var last uint64
	for i := range 3 {
		last, err = w.Append(ctx, 0, fmt.Sprint(i), make([]byte, 15<<10))
		require.NoError(t, err)
	}
	require.NoError(t, w.Settle(ctx, nil))
	done := make(chan error, 1)
	go func() {
		_, err := w.Append(ctx, 0, "3", make([]byte, 30<<10))
		done <- err
	}()
	require.ErrorContains(t, <-waits, "maximum bytes")
	require.NoError(t, Purge(ctx, js, testLog, last))
	require.NoError(t, <-done)
}

// A purge leaves each writer the fence and the messages that are its position.
func TestPurgeKeepsPositions(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	idle, _, err := Open(ctx, js, testLog, "idle", Options{Lanes: []int{0}})
	require.NoError(t, err)
	_, err = idle.Append(ctx, 0, "5", []byte("idle"))
	require.NoError(t, err)
	busy, _, err := Open(ctx, js, testLog, "busy", Options{Lanes: []int{0}})
	require.NoError(t, err)
	var last uint64
	for i := range 2 * pinnedMessages {
		last, err = busy.Append(ctx, 0, fmt.Sprint(i), []byte("busy"))
		require.NoError(t, err)
	}
	require.NoError(t, busy.Settle(ctx, []byte("all")))
	require.NoError(t, Purge(ctx, js, testLog, last))
	require.Equal(t, []string{"idle", "busy"}, read(t, js, 0))

	_, rec, err := Open(ctx, js, testLog, "idle", Options{Lanes: []int{0}})
	require.NoError(t, err)
	require.Equal(t, "5", rec.Last[0].Position)
	_, err = busy.Append(ctx, 0, "next", []byte("next"))
	require.NoError(t, err, "the fence survived the purge")
	_, rec, err = Open(ctx, js, testLog, "busy", Options{Lanes: []int{0}})
	require.NoError(t, err)
	require.Equal(t, "all", string(rec.Body))

	_, err = OpenReader(ctx, js, testLog, 0, 1)
	require.NoError(t, err, "the idle writer's fence is still the first message")
}

// A fence that is taken anew settles nothing: until the writer has looked what became of an append,
// no purge may take the append away, or it would be appended a second time.
func TestPurgeKeepsWhatIsNotSettled(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{MaxBytes: 16 << 10}))
	w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0, 1}})
	require.NoError(t, err)
	_, err = w.Append(ctx, 0, "10", []byte("settled"))
	require.NoError(t, err)
	require.NoError(t, w.Settle(ctx, []byte("10")))
	_, err = w.Append(ctx, 0, "20", make([]byte, 8<<10))
	require.NoError(t, err)
	require.NoError(t, w.retake(ctx, w.held.sequence))
	require.NoError(t, Purge(ctx, js, testLog, w.held.sequence))
	last, err := w.last(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, "20", last.Position)

	for range 2 { // a take-over, and a take-over of that
		next, rec, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0, 1}})
		require.NoError(t, err)
		require.Equal(t, "10", string(rec.Body))
		require.Equal(t, "20", rec.Last[0].Position)
		require.NoError(t, Purge(ctx, js, testLog, next.held.sequence))
		w = next
	}
	require.NoError(t, w.Settle(ctx, []byte("20")))
	require.NoError(t, Purge(ctx, js, testLog, w.held.sequence))
	require.Empty(t, read(t, js, 0), "settled now")
}

func TestVerifyTellsATailLoss(t *testing.T) {
	ctx, js := contextFor(t), connect(t, natstest.Start(t))
	require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
	w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}})
	require.NoError(t, err)
	seq, err := w.Append(ctx, 0, "1", []byte("1"))
	require.NoError(t, err)
	stream, err := js.Stream(ctx, testLog.Stream())
	require.NoError(t, err)
	msg, err := stream.GetMsg(ctx, seq)
	require.NoError(t, err)
	require.NoError(t, Verify(ctx, js, testLog, seq, msg.Time))
	require.ErrorIs(t, Verify(ctx, js, testLog, seq+1, msg.Time), ErrTailLost)
	require.ErrorIs(t, Verify(ctx, js, testLog, seq, msg.Time.Add(time.Nanosecond)), ErrTailLost)
}
