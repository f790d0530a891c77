//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// The audit of a join: its rows are made of two records, its counts of two topics, and dedup comes before it.
func TestVerifyJoin(t *testing.T) {
	const partitions, orders, users = 2, 2000, 100
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := runJoinStack(t)
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE enriched (order_id String, user_id UInt32, amount Decimal(18, 2), name String) ENGINE = MergeTree ORDER BY order_id
		SETTINGS non_replicated_deduplication_window = 1000`)
	left := stack.NewProducer(t, kafka.Addr(), "orders", partitions)
	right := stack.NewProducer(t, kafka.Addr(), "users", partitions)
	begin := time.Now().Add(-time.Hour).Truncate(time.Second)
	for n := range users {
		right.SendRecord(&kgo.Record{Partition: int32(n % partitions), Timestamp: begin, Value: fmt.Appendf(nil, `{"id":%d,"name":"user %d"}`, n, n)})
	}
	right.Flush()
	produce := func(from, to int) {
		for n := from; n < to; n++ {
			for range 1 + n%2 { // every other one twice
				left.SendRecord(&kgo.Record{Partition: int32(n % partitions), Timestamp: begin.Add(time.Duration(n) * time.Millisecond),
					Value: fmt.Appendf(nil, `{"order_id":"o%d","user_id":%d,"amount":"%d.25"}`, n, n%users, n)})
			}
		}
		left.Flush()
	}
	produce(0, orders/2)
	s.Apply(fmt.Sprintf(`
id: events
sources:
  orders: {kafka: {brokers: ["%[1]s"], topic: orders}, dedup: {key: [order_id], window: 24h}}
  users: {kafka: {brokers: ["%[1]s"], topic: users}}
join: {left: orders, right: users, on: [{left: user_id, right: id}], window: 1h, type: LEFT, grace: 1s, idle: 2s}
sink: {clickhouse: {addr: ["%[2]s"], table: enriched}}
batch: {max_delay: 50ms}
`, kafka.Addr(), s.ClickHouseAddr))
	s.kill("ingestor", "dedup", "join", "sink", "control")
	for _, name := range []string{"control", "ingestor", "dedup", "join", "sink"} {
		s.WaitReady(name)
	}
	produce(orders/2, orders)
	awaitRows(t, s.CLI, table, "events", "enriched", orders)
	s.Wait("events", 2*time.Minute)

	var v verdict
	stack.Await(t, 2*time.Minute, "the audit says EQUAL", func() (bool, any) {
		r := s.Run("", "verify", "events", "-o", "json")
		require.NotEqual(t, different, r.Code, "%s%s", r.Stdout, r.Stderr)
		require.NoError(t, json.Unmarshal([]byte(r.Stdout), &v))
		return r.Code == 0 && len(v.Limits) == 0, r
	})
	require.EqualValues(t, orders, v.Table.Rows)
	require.Len(t, v.Partitions, 2*partitions)
	var records, written, checksum uint64
	for _, p := range v.Partitions {
		records += p.Records
		written += p.Written
		checksum += p.Checksum
	}
	require.EqualValues(t, orders+orders/2+users, records)
	require.EqualValues(t, orders, written)
	require.Equal(t, v.Table.Checksum, checksum)
	stages := map[string]uint64{}
	for _, l := range v.Lanes {
		stages[l.Stage] += l.RowsOut
	}
	require.Equal(t, map[string]uint64{"dedup": orders + users, "join": orders, "sink": orders}, stages)

	table.Exec("ALTER TABLE enriched UPDATE name = 'forged' WHERE order_id = 'o7' SETTINGS mutations_sync = 2")
	v = verify(t, s.CLI, different)
	require.Len(t, v.Differences, 2)
	require.Equal(t, "MISSING", v.Differences[0].Kind)
	require.Equal(t, "EXTRA", v.Differences[1].Kind)
	require.JSONEq(t, `{"order_id":"o7","user_id":7,"amount":"7.25","name":"forged"}`, v.Differences[1].Row)
	require.Contains(t, strings.Join(v.Limits, "\n"), "rows of a join are not looked up in Kafka")
}
