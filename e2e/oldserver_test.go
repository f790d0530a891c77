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

// A server that others made, on the wire: Debian's 18.16. It knows no tokens, so the pipeline says that it is at least
// once, and why; as long as nothing fails that is once.
func TestOldClickHouse(t *testing.T) {
	addr := stack.StartOldClickHouse(t)
	kafka := kafkatest.StartFake(t)
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, addr)
	table.Exec(`CREATE TABLE visits (id UInt64, at DateTime, page String, ms Int32, score Nullable(Float64)) ENGINE = MergeTree ORDER BY id`)
	producer := stack.NewProducer(t, kafka, "visits", 3)
	said := s.Apply(fmt.Sprintf(`
id: visits
source: {kafka: {brokers: ["%s"], topic: visits}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: visits}}
`, kafka, addr))
	require.Contains(t, said, "at least once")
	guarantee := s.Status("visits").Guarantee
	require.Equal(t, "AT_LEAST_ONCE", guarantee.Level)
	require.Contains(t, guarantee.Reason, "18.16")

	const events = 5000
	var want []string
	for i := range events {
		at := time.Unix(1_600_000_000+int64(i), 0).UTC()
		score, wantScore := "null", "<nil>"
		if i%3 > 0 {
			score = fmt.Sprintf("%d.25", i)
			wantScore = score
		}
		event := fmt.Appendf(nil, `{"id":%d,"at":%q,"page":"/p/%d","ms":%d,"score":%s}`,
			uint64(1)<<63+uint64(i), at.Format("2006-01-02 15:04:05"), i%17, -i, score)
		want = append(want, fmt.Sprintf("%d|%d|/p/%d|%d|%s", uint64(1)<<63+uint64(i), at.Unix(), i%17, -i, wantScore))
		producer.Send(int32(i%3), nil, event)
		if i%4 == 0 {
			producer.Send(int32(i%3), nil, event)
		}
	}
	producer.Flush()
	s.Wait("visits", 2*time.Minute)
	requireRows(t, want, table.Rows("SELECT id, toUnixTimestamp(at), page, ms, toString(score) FROM visits"))
	status := s.Status("visits")
	require.EqualValues(t, events, status.RowsOut)
	require.EqualValues(t, events/4, status.Duplicates)
	require.Empty(t, s.DeadLetters("visits"))
}
