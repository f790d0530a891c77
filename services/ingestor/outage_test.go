package ingestor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

var ingestLog = fencedlog.Log{Pipeline: "events", Stage: fencedlog.Ingest}

// bulky is an event that hardly compresses.
func bulky(id, size int) string {
	random := rand.NewChaCha8([32]byte{byte(id), byte(id >> 8), byte(id >> 16)})
	text := make([]byte, size)
	for i := range text {
		text[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[random.Uint64()%64]
	}
	return fmt.Sprintf(`{"id":%d,"text":%q}`, id, text)
}

// consumer reads all lanes as the next stage would, slowly, and purges what it has read.
type consumer struct {
	mu   sync.Mutex
	next []uint64                // guarded by mu; by lane: everything before it was read
	seen map[int32]map[int64]int // guarded by mu; partition, offset: how often
}

func (w *world) consume(ctx context.Context, rest func(context.Context)) (*consumer, func()) {
	lanes := int(w.rec.GetSpec().GetLanes())
	c := &consumer{next: make([]uint64, lanes), seen: map[int32]map[int64]int{}}
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	for lane := range lanes {
		reading.Go(func() {
			r, err := fencedlog.OpenReader(ctx, w.js, ingestLog, lane, 1)
			if err != nil {
				return
			}
			defer r.Close()
			for {
				msg, err := r.Next(ctx)
				if err != nil {
					return
				}
				c.take(lane, msg)
				rest(ctx)
			}
		})
	}
	reading.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				// What fails now is done by the next purge.
				_ = fencedlog.Purge(ctx, w.js, ingestLog, w.lowest(ctx, c))
			}
		}
	})
	return c, func() { cancel(); reading.Wait() }
}

func (c *consumer) take(lane int, msg fencedlog.Message) {
	var v batch.View
	if err := v.Parse(msg.Data); err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next[lane] = msg.Sequence + 1
	if c.seen[v.Partition] == nil {
		c.seen[v.Partition] = map[int64]int{}
	}
	for row := range v.Rows {
		c.seen[v.Partition][v.Offset(row)]++
	}
}

// lowest is what all lanes have covered: like the stages', a lane that has nothing left to read
// covers what the log holds for others.
func (w *world) lowest(ctx context.Context, c *consumer) uint64 {
	stream, err := w.js.Stream(ctx, ingestLog.Stream())
	if err != nil {
		return 0
	}
	lowest := stream.CachedInfo().State.LastSeq
	for lane := range c.next {
		last, err := stream.GetLastMsgForSubject(ctx, ingestLog.LaneFilter(lane))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return 0
		}
		c.mu.Lock()
		next := c.next[lane]
		c.mu.Unlock()
		if last.Sequence >= next {
			lowest = min(lowest, next)
		}
	}
	return lowest
}

func (c *consumer) count() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, offsets := range c.seen {
		n += len(offsets)
	}
	return n
}

// A log that holds no more than a few batches, a slow reader, two busy partitions and two idle ones,
// and the ingestor killed in the middle: it is full most of the time and never for good.
func TestFullLogNeverSticks(t *testing.T) {
	t.Parallel()
	for _, size := range []int{200, 20 << 10, 200 << 10} {
		w := newWorld(t, 4)
		require.NoError(t, fencedlog.Ensure(w.ctx, w.js, ingestLog, fencedlog.Limits{MaxBytes: 1 << 20}))
		const total = 8 << 20
		each := total / size / 2
		each = min(each, 10000)
		w.produce(2, event(1)) // idle from here on
		w.produce(3, event(2))
		for p := range int32(2) {
			var values []string
			for n := range each {
				values = append(values, bulky(1000+int(p)*each+n, size))
			}
			w.produce(p, values...)
		}
		first := w.start("first")
		require.Eventually(t, func() bool {
			for _, s := range first.Status("") {
				if strings.Contains(s.GetLastError(), "maximum bytes") {
					return true
				}
			}
			return false
		}, 2*time.Minute, time.Millisecond, "the log is not full with events of %d bytes", size)
		c, stop := w.consume(w.ctx, func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Millisecond):
			}
		})
		getsThere(t, func() (bool, uint64) { n := c.count(); return n > each/2, uint64(n) })
		first.crash(t)
		w.start("second")
		tally := w.settled()
		require.Equal(t, batch.Tally{Records: uint64(2*each + 2), Rows: uint64(2*each + 2)}, tally, "events of %d bytes", size)
		getsThere(t, func() (bool, uint64) { n := c.count(); return n == 2*each+2, uint64(n) })
		stop()
		for p, offsets := range c.seen {
			for offset, n := range offsets {
				require.Equal(t, 1, n, "partition %d offset %d", p, offset)
			}
		}
		require.Empty(t, w.letters())
		w.nats.Stop()
	}
}

// NATS is away while Kafka delivers at full speed: the lag is shown, memory stays bounded, and all
// of it arrives afterwards.
//
// Not parallel: it measures the heap.
func TestMemoryWhileNATSIsAway(t *testing.T) {
	w := newWorld(t, 2)
	i := w.start("a")
	for p := range int32(2) {
		w.produce(p, event(int(p)))
	}
	w.settled()
	w.nats.Stop()
	const each, size = 1200, 32 << 10
	for p := range int32(2) {
		var values []string
		for n := range each {
			values = append(values, bulky(int(p)*each+n+10, size))
		}
		w.produce(p, values...)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	lagging := func() bool {
		list := i.Status("events")
		for _, s := range list {
			if s.GetCondition() != stagev1.UnitStatus_WAITING || s.GetLastError() == "" {
				return false
			}
		}
		return len(list) == 2
	}
	require.Eventually(t, lagging, 2*time.Minute, 20*time.Millisecond, "the wait is visible")
	// The test's Kafka keeps its records in this heap, too.
	used := heap() - 2*each*size
	t.Logf("heap while NATS is away, without Kafka's: %d MB", used>>20)
	require.Less(t, used, uint64(160<<20))
	w.nats.Start()
	require.Equal(t, batch.Tally{Records: 2*each + 2, Rows: 2*each + 2}, w.settled())
	w.requireOnce(2, each+1)
	require.Empty(t, w.letters())
}

// Kafka is away: the state says so, and afterwards reading goes on where it stood.
func TestKafkaIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	var away atomic.Bool
	w.broker.Cluster().Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.Cluster().KeepControl()
		return nil, errors.New("away"), away.Load() // the connection breaks
	})
	w.start("a")
	w.produce(0, events(0, 100)...)
	w.settled()
	away.Store(true)
	require.Eventually(t, func() bool {
		statuses, err := w.registry.Statuses(w.ctx, "events")
		return err == nil && len(statuses) == 1 && statuses[0].GetCondition() == stagev1.UnitStatus_WAITING && statuses[0].GetLastError() != ""
	}, 2*time.Minute, 20*time.Millisecond)
	away.Store(false)
	w.produce(0, events(100, 200)...)
	w.settled()
	w.requireOnce(1, 200)
	require.Empty(t, w.letters())
}

// Records that expire before they are read are gone: that is told for good, with their offsets.
func TestExpiredRecordsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	first := w.start("first")
	w.produce(0, events(0, 100)...)
	w.settled()
	first.quit(t)
	w.produce(0, events(100, 200)...)
	_, err := w.admin.DeleteRecords(w.ctx, kadm.Offsets{"events": {0: {Topic: "events", Partition: 0, At: 150}}})
	require.NoError(t, err)
	for _, name := range []string{"second", "third"} {
		i := w.start(name)
		require.Equal(t, uint64(150), w.settled().Records)
		var s *stagev1.UnitStatus
		require.Eventually(t, func() bool {
			for _, s = range i.Status("") {
				return s.GetCondition() == stagev1.UnitStatus_RUNNING
			}
			return false
		}, 2*time.Minute, 5*time.Millisecond)
		require.Equal(t, uint64(50), s.GetLostOffsets())
		require.Contains(t, s.GetLastError(), "offsets 100 to 149 of partition 0 of events expired")
		i.quit(t)
	}
	w.requireOnce(1, 150)
}

// A partition that is shorter than what was read of it gives the same offsets to other records: they
// are read, nothing is skipped, and it is told.
func TestKafkaLosesItsEnd(t *testing.T) {
	t.Parallel()
	id := topicID{1}
	pos := position{id: id, next: 90, lanes: []int64{100, 90}, dead: 95}
	require.True(t, pos.fit("events", 3, 10, 92, time.UnixMilli(5)))
	require.Equal(t, []int64{92, 90}, pos.lanes)
	require.Equal(t, int64(92), pos.dead)
	require.Equal(t, int64(90), pos.next)
	require.Equal(t, "Kafka lost the end of partition 3 of events: it had been read up to offset 99 and ended at 92; reading goes on from there", pos.loss.text)
	body, err := pos.body("events", 3)
	require.NoError(t, err)
	// A crash at once: the tokens of before must not hide the new records.
	again, err := recoverPosition(id, 0, lanesFrom0(2), fencedlog.Recovered{Body: body, Last: map[int]fencedlog.Last{
		0: {Position: token(id, 100, 0)}, 1: {Position: token(id, 91, 1)},
	}}, token(id, 95, 0))
	require.NoError(t, err)
	require.Equal(t, []int64{92, 91}, again.lanes)
	require.Equal(t, int64(92), again.dead)
	require.Equal(t, pos.loss, again.loss)
	require.False(t, again.fit("events", 3, 10, 92, time.UnixMilli(6)))
}

func TestCheckpointOfAClaimThatNeverBegan(t *testing.T) {
	t.Parallel()
	s := &session{ended: make(chan struct{}), partitions: map[int32]*claimed{0: {checkpoints: make(chan chan<- error), done: make(chan struct{})}}}
	close(s.ended)
	units, err := s.checkpoint(t.Context())
	require.NoError(t, err)
	require.Zero(t, units)
	require.True(t, s.unread())
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("given up"))
	s.ended = make(chan struct{})
	_, err = s.checkpoint(ctx)
	require.ErrorContains(t, err, "given up")
}

// Events of which a few make a batch that NATS would not take are sealed in time.
func TestMediumEventsFitTheirMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.start("a")
	var values []string
	for n := range 100 {
		values = append(values, strings.Replace(bulky(n, 200<<10), fmt.Sprintf(`"id":%d`, n), `"id":7`, 1))
	}
	w.produce(0, values...)
	require.Equal(t, batch.Tally{Records: 100, Rows: 100}, w.settled())
	w.requireOnce(1, 100)
}
