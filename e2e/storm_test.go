//go:build unix

package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// stream produces events with known duplicates until it is stopped. A duplicate has the key of an earlier event and
// another payload: which of the two is in the table can be seen.
type stream struct {
	producer   *stack.Producer
	partitions int32
	sent       atomic.Int64
	stop       chan struct{}
	done       sync.WaitGroup
	first      map[string]string // owned by run, until stopped
}

// pace is how many events go out every tick: 2,000 a second.
const (
	tick = 10 * time.Millisecond
	pace = 20
)

func startStream(t *testing.T, producer *stack.Producer, partitions int32) *stream {
	s := &stream{producer: producer, partitions: partitions, stop: make(chan struct{}), first: map[string]string{}}
	s.done.Go(func() { s.run(rand.New(rand.NewPCG(4, 9))) })
	t.Cleanup(s.end)
	return s
}

func (s *stream) run(random *rand.Rand) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for next := 0; ; {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		for range pace {
			id := next
			if next > 0 && random.IntN(5) == 0 {
				id = random.IntN(next) // from any time before
			} else {
				next++
			}
			key, n := fmt.Sprintf("event-%d", id), s.sent.Add(1)
			if _, ok := s.first[key]; !ok {
				s.first[key] = fmt.Sprintf("%s|%d|payload of %d", key, n, n)
			}
			s.producer.Send(stack.PartitionOf(key, s.partitions), []byte(key),
				fmt.Appendf(nil, `{"id":%q,"n":%d,"text":"payload of %d"}`, key, n, n))
		}
	}
}

func (s *stream) end() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.done.Wait()
}

// rows ends the stream and returns the rows that must be in the table.
func (s *stream) rows() []string {
	s.end()
	s.producer.Flush()
	rows := make([]string, 0, len(s.first))
	for _, row := range s.first {
		rows = append(rows, row)
	}
	return rows
}

// more waits until n further events have been sent.
func (s *stream) more(t *testing.T, n int64) {
	t.Helper()
	until := s.sent.Load() + n
	require.Eventually(t, func() bool { return s.sent.Load() >= until }, stack.Up, tick, "the producer does not get on")
}

// Everything but Kafka is killed once while events flow: nothing is lost, nothing is there twice.
func TestKillEverything(t *testing.T) {
	const partitions = 4
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE events (id String, n UInt64, text String) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 1000`)
	events := startStream(t, stack.NewProducer(t, kafka.Addr(), "events", partitions), partitions)
	s.Apply(fmt.Sprintf(`
id: events
source: {kafka: {brokers: ["%s"], topic: events}}
dedup: {key: [id], window: 24h}
sink: {clickhouse: {addr: ["%s"], table: events}}
batch: {max_delay: 50ms}
`, kafka.Addr(), s.ClickHouseAddr))

	// flows waits until rows arrive that were not yet sent when it was called.
	flows := func(after string) {
		t.Helper()
		n, began := events.sent.Load(), time.Now()
		stack.Await(t, 2*time.Minute, "rows arrive after "+after, func() (bool, any) {
			rows, err := table.TryRows(fmt.Sprintf("SELECT count() FROM events WHERE n > %d", n))
			return err == nil && rows[0] != "0", s.Run("", "status", "events")
		})
		t.Logf("%s: rows arrive after %s", after, time.Since(began).Round(10*time.Millisecond))
	}
	flows("the start")
	for _, step := range []struct {
		process *stack.Process
		away    int64 // events sent while it is away
	}{
		{process: s.Service("ingestor")},
		{process: s.Service("dedup"), away: 1000},
		{process: s.Service("sink"), away: 500},
		{process: s.Service("control"), away: 4000},
		{process: s.NATS, away: 2000},
		{process: s.ClickHouse, away: 3000},
	} {
		step.process.Kill()
		if step.away > 0 {
			events.more(t, step.away)
		}
		step.process.Start()
		flows("the kill of " + step.process.Name)
	}

	// owners waits until the lanes of a stage are shared as wanted.
	owners := func(stage string, want map[string]int) {
		t.Helper()
		stack.Await(t, 2*time.Minute, fmt.Sprintf("the lanes of %s are shared as %v", stage, want), func() (bool, any) {
			owners := s.Status("events").Owners(stage)
			return maps.Equal(owners, want), owners
		})
	}
	for _, stage := range []string{"dedup", "sink"} {
		second := s.Scale(stage, stage+"-2")
		owners(stage, map[string]int{stage: 2, stage + "-2": 2})
		flows("the second " + stage)
		require.Zero(t, second.Stop())
		owners(stage, map[string]int{stage: 4})
		flows("the end of the second " + stage)
	}

	want := events.rows()
	s.Wait("events", 2*time.Minute)
	requireRows(t, want, table.Rows("SELECT id, n, text FROM events"))
	require.Empty(t, s.DeadLetters("events"))
	status, sent := s.Calm("events"), uint64(events.sent.Load())
	require.Equal(t, sent, status.RecordsIn)
	require.EqualValues(t, len(want), status.RowsOut)
	require.Equal(t, sent-uint64(len(want)), status.Duplicates)
	for _, p := range s.Processes() {
		if p.Name != "dedup-2" && p.Name != "sink-2" {
			require.True(t, p.Running(), "%s has ended by itself", p.Name)
		}
	}
}
