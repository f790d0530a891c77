package ingestor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

// fault is what happens to one durable step.
type fault int

const (
	refused fault = iota // it fails
	unheard              // it is done, but reported as failed
	crashed              // it is done, and then the process is gone
)

// faultyLog does its worst to the publish numbered at. Every durable step of the ingestor is a
// publish: fence, append, dead letters, settle.
type faultyLog struct {
	jetstream.JetStream
	fault fault
	at    int64
	calls atomic.Int64
	crash func()
	down  chan struct{} // closed by the crash
}

func (f *faultyLog) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if f.calls.Add(1)-1 != f.at {
		return f.JetStream.PublishMsg(ctx, msg, opts...)
	}
	if f.fault != refused {
		if _, err := f.JetStream.PublishMsg(ctx, msg, opts...); err != nil {
			return nil, err
		}
	}
	if f.fault == crashed {
		f.crash()
		close(f.down)
	}
	return nil, errors.New("injected")
}

// reached waits until the instance has settled the end of partition 0.
func (i *instance) reached(t *testing.T, ctx context.Context, end int, down <-chan struct{}) (batch.Tally, bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-down:
			return batch.Tally{}, false
		case <-ctx.Done():
			require.Fail(t, "the end was not reached", "status %v", i.Status(""))
		case <-tick.C:
			for _, s := range i.Status("") {
				if int(s.GetPosition()) == end {
					return batch.TallyOf(s.GetTally()), true
				}
			}
		}
	}
}

// Each durable step fails, is reported as failed, or is the last thing that the process does: step
// 0, 1, 2, … until a run goes through before its fault.
func TestEveryFaultOfEveryStep(t *testing.T) {
	for name, fault := range map[string]fault{"refused": refused, "unheard": unheard, "crashed": crashed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := int64(0); ; at++ {
				steps := faultyRun(t, fault, at)
				if steps <= at {
					require.Greater(t, at, int64(8), "fence, settle, lanes, dead letters and settle were all tried")
					t.Logf("%d steps", steps)
					return
				}
			}
		})
	}
}

func faultyRun(t *testing.T, fault fault, at int64) (steps int64) {
	w := newWorld(t, 1)
	defer w.nats.Stop()
	large := `{"id":7,"text":"` + strings.Repeat("x", 300<<10) + `"}` // travels alone
	values := append(events(0, 20), "bad", "", large, "worse", event(8), large)
	w.produce(0, values...)
	i, f := w.startFaulty("first", fault, at)
	tally, ok := i.reached(t, w.ctx, len(values), f.down)
	if ok {
		// The end may be settled in parts: more records, more steps.
		w.produce(0, append(events(20, 30), "bad")...)
		tally, ok = i.reached(t, w.ctx, len(values)+11, f.down)
	} else {
		w.produce(0, append(events(20, 30), "bad")...)
	}
	if !ok {
		i.quit(t)
		i = w.start("second")
		tally, _ = i.reached(t, w.ctx, len(values)+11, nil)
	}
	i.quit(t)
	require.Equal(t, batch.Tally{Records: 37, Tombstones: 1, DeadLetters: 3, Rows: 33}, tally, "fault at %d", at)
	offsets, _ := w.logged()
	require.Len(t, offsets[0], 33, "fault at %d", at)
	for offset, n := range offsets[0] {
		require.Equal(t, 1, n, "fault at %d: offset %d", at, offset)
	}
	var dead []int64
	for _, letter := range w.letters() {
		dead = append(dead, letter.GetOffset())
	}
	require.Equal(t, []int64{20, 23, 36}, dead, "fault at %d", at)
	return f.calls.Load()
}

// Kafka's own record of the offsets is a courtesy: whatever becomes of the commits, nothing is lost
// or repeated.
func TestOffsetCommitsDoNotMatter(t *testing.T) {
	t.Parallel()
	for _, answered := range []bool{false, true} {
		w := newWorld(t, 1)
		var commits atomic.Int64
		w.broker.Cluster().ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.Cluster().KeepControl()
			commits.Add(1)
			if !answered {
				return nil, errors.New("injected"), true // the connection breaks
			}
			res := req.ResponseKind().(*kmsg.OffsetCommitResponse)
			for _, topic := range req.(*kmsg.OffsetCommitRequest).Topics {
				answer := kmsg.OffsetCommitResponseTopic{Topic: topic.Topic}
				for _, p := range topic.Partitions {
					answer.Partitions = append(answer.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: 29})
				}
				res.Topics = append(res.Topics, answer)
			}
			return res, nil, true
		})
		for round := range 3 {
			w.produce(0, events(round*100, round*100+100)...)
			i := w.start(fmt.Sprint(round))
			i.reached(t, w.ctx, round*100+100, nil)
			i.quit(t)
		}
		w.requireOnce(1, 300)
		require.Positive(t, commits.Load())
	}
}

// A predecessor's dead letters that arrive after we have looked for them are not written again.
func TestDeadLettersOfAZombie(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	i, f := w.startFaulty("zombie", refused, -1)
	w.produce(0, event(1))
	i.reached(t, w.ctx, 1, nil)
	var pos position
	_, past, err := fencedlog.Open(w.ctx, w.js, fencedlog.Log{Pipeline: "events", Stage: fencedlog.DeadLetters}, lettersWriter("", 0), fencedlog.Options{})
	require.NoError(t, err)
	require.Empty(t, past.Last)
	copy(pos.id[:], i.Status("")[0].GetTopicId())
	i.quit(t)
	require.Positive(t, f.calls.Load())

	opened := 0
	p := &partition{pos: position{id: pos.id, next: 1}, letters: &letters{limit: 1 << 20}, counts: i.metrics.of("events", "", batch.Tally{})}
	p.letters.open = func(ctx context.Context) (*fencedlog.Writer, string, error) {
		opened++
		log := fencedlog.Log{Pipeline: "events", Stage: fencedlog.DeadLetters}
		// The zombie's letter of offset 1 gets in just before we become the writer.
		zombie, _, err := fencedlog.Open(ctx, w.js, log, lettersWriter("", 0), fencedlog.Options{})
		require.NoError(t, err)
		_, err = zombie.Append(ctx, lettersLane, token(pos.id, 2, 0), nil)
		require.NoError(t, err)
		writer, past, err := fencedlog.Open(ctx, w.js, log, lettersWriter("", 0), fencedlog.Options{Lanes: []int{lettersLane}})
		return writer, past.Last[lettersLane].Position, err
	}
	for offset := int64(1); offset < 3; offset++ {
		require.NoError(t, p.refuse(w.ctx, message(offset, "bad"), "", "bad"))
	}
	require.NoError(t, p.flushLetters(w.ctx))
	require.Equal(t, 1, opened)
	letters := w.letters()
	require.Len(t, letters, 1)
	require.Equal(t, int64(2), letters[0].GetOffset())
	require.Equal(t, uint64(2), p.pos.tally.DeadLetters)
}
