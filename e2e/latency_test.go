//go:build unix

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// From the hand-over to the Kafka client until a query sees the row: 1,000 events a second, in blocks of 20 ms.
// Polling adds up to 10 ms and one query's time to each figure.
func TestLatency(t *testing.T) {
	const rate, seconds, partitions = 1000, 10, 4
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE pings (id UInt32) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 1000`)
	producer := stack.NewProducer(t, kafka.Addr(), "pings", partitions)
	s.Apply(fmt.Sprintf(`
id: pings
source: {kafka: {brokers: ["%s"], topic: pings}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: pings}}
batch: {max_delay: 20ms}
`, kafka.Addr(), s.ClickHouseAddr))
	send := func(id int) { producer.Send(int32(id%partitions), nil, fmt.Appendf(nil, `{"id":%d}`, id)) }
	for id := range partitions { // the first of each partition finds everything awake
		send(id)
	}
	s.Wait("pings", 30*time.Second)

	const total = rate * seconds
	sent := make([]time.Time, partitions+total)
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		began := time.Now()
		for id := partitions; id < len(sent); {
			<-ticker.C
			for due := partitions + int(time.Since(began).Seconds()*rate); id < min(due, len(sent)); id++ {
				sent[id] = time.Now()
				send(id)
			}
		}
	}()
	t.Cleanup(func() { <-produced })

	seen := make([]time.Time, len(sent))
	visible := partitions
	look := time.NewTicker(10 * time.Millisecond) // without a pause the looking would be most of the engine's work
	defer look.Stop()
	for deadline := time.Now().Add(seconds*time.Second + stack.Up); visible < len(sent); <-look.C {
		require.True(t, time.Now().Before(deadline), "%d of %d rows are visible", visible-partitions, total)
		// Rows of all lanes arrive out of order: take what was not seen yet, from the lowest that is missing on.
		lowest := slices.IndexFunc(seen[partitions:], time.Time.IsZero) + partitions
		rows := table.Rows(fmt.Sprintf("SELECT id FROM pings WHERE id >= %d", lowest))
		now := time.Now()
		for _, row := range rows {
			id, err := strconv.Atoi(row)
			require.NoError(t, err)
			if seen[id].IsZero() {
				seen[id] = now
				visible++
			}
		}
	}
	<-produced
	latencies := make([]time.Duration, 0, total)
	for id := partitions; id < len(sent); id++ {
		latencies = append(latencies, seen[id].Sub(sent[id]))
	}
	slices.Sort(latencies)
	p50, p99 := latencies[total/2], latencies[total*99/100]
	t.Logf("Kafka to visible row at %d events/s, max_delay 20ms: p50 %s, p99 %s, longest %s", rate,
		p50.Round(time.Millisecond), p99.Round(time.Millisecond), latencies[total-1].Round(time.Millisecond))
	require.LessOrEqual(t, p99, time.Second)
	require.Equal(t, partitions+total, table.Count("pings"))
}
