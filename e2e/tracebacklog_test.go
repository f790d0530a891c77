//go:build unix

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// TestTraceABacklog: ClickHouse is away and much waits in the logs. Time that is not enough is said to be, by the exit code too; time that is
// leads to the event.
func TestTraceABacklog(t *testing.T) {
	const events, padding = 60_000, 700
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE backlog (id UInt32, text String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`)
	producer := stack.NewProducer(t, kafka.Addr(), "backlog", 1)
	producer.Send(0, nil, []byte(`{"id":0,"text":""}`))
	producer.Flush()
	s.Apply(fmt.Sprintf(`
id: backlog
source: {kafka: {brokers: ["%s"], topic: backlog}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: backlog}}
batch: {max_delay: 20ms}
lanes: 1
`, kafka.Addr(), s.ClickHouseAddr))
	s.Wait("backlog", stack.Up)
	s.Service("sink").Kill()
	text := make([]byte, padding)
	for id := 1; id <= events; id++ {
		for i := range text {
			text[i] = 'a' + byte((id*31+i*i*id)%26)
		}
		producer.Send(0, nil, fmt.Appendf(nil, `{"id":%d,"text":"%s"}`, id, text))
	}
	producer.Flush()
	stack.Await(t, 2*time.Minute, "all is in the log of dedup", func() (bool, any) {
		out := s.Run("", "trace", "backlog", "--offset", fmt.Sprintf("0:%d", events))
		return out.Code == 0, out.Stdout + out.Stderr
	})
	began := time.Now()
	r := s.Run("", "trace", "backlog", "--offset", fmt.Sprintf("0:%d", events))
	t.Logf("%s: %s%s", time.Since(began), r.Stdout, r.Stderr)
	require.Zero(t, r.Code)
	require.Contains(t, r.Stdout, "PENDING")

	r = s.Run("", "trace", "backlog", "--offset", fmt.Sprintf("0:%d", events), "--timeout", "1ms")
	require.Equal(t, 5, r.Code, "%s%s", r.Stdout, r.Stderr)
	require.Contains(t, r.Stdout, "UNKNOWN")
	require.Contains(t, r.Stdout, "allow more time (--timeout)")
	require.Contains(t, r.Stderr, "not everything could be read in the time allowed")
	require.Equal(t, 2, s.Run("", "trace", "backlog", "--offset", "0:1", "--timeout", "-1s").Code)

	s.Service("sink").Start()
	s.Wait("backlog", 2*time.Minute)
	require.Contains(t, s.Do("trace", "backlog", "--offset", fmt.Sprintf("0:%d", events)), "WRITTEN")
}
