//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// joinedWay are the spans of the record that completes a pair, from Kafka to the table, each the parent of the next.
func joinedWay(topic string) []wayStep {
	return []wayStep{
		{"sluice-ingestor", "process " + topic, "consumer"},
		{"sluice-dedup", "process sluice_matched_ingest", "consumer"},
		{"sluice-join", "process sluice_matched_dedup", "consumer"},
		{"sluice-sink", "process sluice_matched_join", "consumer"},
		{"sluice-sink", "INSERT default.matched", "client"},
	}
}

type wayStep struct{ service, name, kind string }

// TestTracingAJoin: one trace from the record that completes a pair to the insert; its join is linked with where the counterpart waits, whichever
// side came first. sluice trace tells the way of each record, also once the logs are purged.
func TestTracingAJoin(t *testing.T) {
	jaeger := stack.StartJaeger(t)
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t), "OTEL_EXPORTER_OTLP_ENDPOINT="+jaeger.Endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_BSP_SCHEDULE_DELAY=200", "SLUICE_KEEP_LOGS=0s")
	if s.Service("join") == nil {
		s.Scale("join", "join")
	}
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE matched (id UInt32, user UInt32, name String) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 1000`)
	producers := map[string]*stack.Producer{}
	for _, topic := range []string{"orders", "users"} {
		producers[topic] = stack.NewProducer(t, kafka.Addr(), topic, 2)
	}
	// orders' dedup key is not the join key: their batches are taken apart.
	s.Apply(fmt.Sprintf(`
id: matched
sources:
  orders: {kafka: {brokers: ["%[1]s"], topic: orders}, dedup: {key: [id], window: 1h}}
  users: {kafka: {brokers: ["%[1]s"], topic: users}}
join: {left: orders, right: users, on: [{left: user, right: user}], window: 10m, grace: 1s, idle: 1s}
columns: [{name: user, from: orders.user}, {name: name, from: users.name}]
sink: {clickhouse: {addr: ["%[2]s"], table: matched}}
batch: {max_delay: 50ms}
lanes: 2
`, kafka.Addr(), s.ClickHouseAddr))
	// send sends a record that has a trace of its own, whose number is returned as Jaeger writes it.
	send := func(topic string, partition int32, number int, value string) (id, parent string) {
		id, parent = fmt.Sprintf("%032x", number), fmt.Sprintf("%016x", number)
		p := producers[topic]
		p.SendRecord(&kgo.Record{Partition: partition, Value: []byte(value), Headers: []kgo.RecordHeader{
			{Key: "traceparent", Value: fmt.Appendf(nil, "00-%s-%s-01", id, parent)},
		}})
		p.Flush()
		return id, parent
	}
	names := func(way []wayStep) (out []string) {
		for _, step := range way {
			out = append(out, step.name)
		}
		return append(out, "send sluice_matched_ingest", "send sluice_matched_dedup")
	}
	check := func(spans map[string]stack.Span, way []wayStep, parent string) {
		t.Helper()
		for _, step := range way {
			span := spans[step.name]
			require.Equal(t, step.service, span.Service, step.name)
			require.Equal(t, step.kind, span.Kind, step.name)
			require.Equal(t, parent, span.Parent, step.name)
			require.Equal(t, "matched", span.Tags["sluice.pipeline"], step.name)
			require.Empty(t, span.Tags["error"], step.name)
			parent = span.ID
		}
	}
	// waiting is the span of the join that took a row in which waits.
	waiting := func(id, parent, topic string) stack.Span {
		t.Helper()
		way := joinedWay(topic)[:3]
		spans := byName(t, jaeger, id, names(way)...)
		check(spans, way, parent)
		return spans[way[2].name]
	}
	completed := func(id, parent, topic string, counterpart stack.Span) {
		t.Helper()
		way := joinedWay(topic)
		spans := byName(t, jaeger, id, append(names(way), "send sluice_matched_join")...)
		check(spans, way, parent)
		join := spans[way[2].name]
		require.Equal(t, []string{counterpart.ID}, join.Links)
		require.Equal(t, "nats", join.Tags["messaging.system"])
		require.Equal(t, "process", join.Tags["messaging.operation.type"])
		require.Equal(t, "sluice_matched_dedup", join.Tags["messaging.destination.name"])
		require.Equal(t, topic, join.Tags["sluice.source"])
		require.Equal(t, "1", join.Tags["sluice.rows"])
		require.Equal(t, "1", join.Tags["sluice.rows.out"])
		out := spans["send sluice_matched_join"]
		require.Equal(t, join.ID, out.Parent)
		require.Equal(t, "producer", out.Kind)
		require.Equal(t, out.Tags["sluice.sequence"], spans[way[3].name].Tags["sluice.sequence"])
		require.Equal(t, "clickhouse", spans[way[4].name].Tags["db.system.name"])
	}

	order, orderParent := send("orders", 1, 0xa1, `{"id":1,"user":7}`)
	orderSpan := waiting(order, orderParent, "orders")
	require.Empty(t, orderSpan.Links)
	user, userParent := send("users", 0, 0xb1, `{"user":7,"name":"Ada"}`)
	awaitRows(t, s.CLI, table, "matched", "matched", 1)
	completed(user, userParent, "users", orderSpan)

	// The other way round: the right row waits.
	user2, user2Parent := send("users", 1, 0xb2, `{"user":8,"name":"Bo"}`)
	userSpan := waiting(user2, user2Parent, "users")
	order2, order2Parent := send("orders", 0, 0xa2, `{"id":2,"user":8}`)
	awaitRows(t, s.CLI, table, "matched", "matched", 2)
	completed(order2, order2Parent, "orders", userSpan)

	rows := table.Rows("SELECT id, user, name FROM matched ORDER BY id")
	require.Equal(t, []string{"1|7|Ada", "2|8|Bo"}, rows)
	s.Wait("matched", 2*time.Minute)

	t.Run("the way of every event can be told", func(t *testing.T) {
		send("orders", 1, 0xa4, `{"id":1,"user":7}`)
		send("orders", 0, 0xa5, `{"id":5,"user":99}`)
		send("users", 0, 0xb5, `{"user":7,"name":"Ada again"}`)
		awaitRows(t, s.CLI, table, "matched", "matched", 3)
		s.Wait("matched", 2*time.Minute)
		trace := func(args ...string) string { return s.Do(append([]string{"trace", "matched"}, args...)...) }
		check := func(when string) {
			t.Helper()
			out := trace("--source", "orders", "--offset", "1:0")
			for _, want := range []string{
				"orders (orders)  partition 1  offset 0  WRITTEN\ntrace " + order + "\n", "matched with users 0:0, in trace " + user,
				"matched with users 0:1, in trace " + fmt.Sprintf("%032x", 0xb5), "inserted in a block of 1 rows", "sluice/matched.",
			} {
				require.Contains(t, out, want, when)
			}
			out = trace("--offset", "users/0:0")
			require.Contains(t, out, "users (users)  partition 0  offset 0  WRITTEN\ntrace "+user+"\n", when)
			require.Contains(t, out, "matched with orders 1:0\n", when)
			out = trace("--source", "orders", "--offset", "1:1")
			require.Contains(t, out, "offset 1  DUPLICATE\ntrace "+fmt.Sprintf("%032x", 0xa4), when)
			require.Contains(t, out, "dropped: a duplicate", when)
			out = trace("--source", "orders", "--offset", "0:1")
			require.Contains(t, out, "offset 1  PENDING\ntrace "+fmt.Sprintf("%032x", 0xa5), when)
			require.Contains(t, out, "waits for a counterpart until event time has passed", when)
			out = trace("--source", "orders", "--key", "1") // the dedup key
			require.Contains(t, out, "partition 1  offset 0  WRITTEN", when)
			require.Contains(t, out, "partition 1  offset 1  DUPLICATE", when)
			require.NotContains(t, out, "partition 0", when)
			out = trace("--source", "users", "--key", "7") // there is no dedup: the join key
			require.Contains(t, out, "partition 0  offset 0  WRITTEN", when)
			require.Contains(t, out, "partition 0  offset 1  WRITTEN", when)
		}
		stack.Await(t, stack.Up, "dedup has told of the duplicate", func() (bool, any) { // in a receipt, which may come a moment later
			out := trace("--source", "orders", "--offset", "1:1")
			return strings.Contains(out, "DUPLICATE"), out
		})
		check("from the logs")
		stack.Await(t, stack.Up, "the logs are purged", func() (bool, any) {
			out := trace("--source", "orders", "--offset", "1:0") + trace("--source", "orders", "--offset", "0:1") + trace("--offset", "users/0:0")
			return strings.Count(out, "was in the log") == 3, out
		})
		check("from receipts")
		t.Logf("\n%s", trace("--source", "orders", "--offset", "1:0"))
		t.Logf("\n%s", trace("--source", "orders", "--offset", "0:1"))
		var answer struct {
			Events []struct {
				Steps []struct {
					Stage   string
					Rows    int
					Matched []struct{ Source string }
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(trace("--source", "orders", "--offset", "1:0", "-o", "json")), &answer))
		matched := 0
		for _, step := range answer.Events[0].Steps {
			matched += len(step.Matched)
		}
		require.Equal(t, 2, matched)
		for _, wrong := range [][]string{{"--offset", "1:0"}, {"--source", "others", "--offset", "1:0"}, {"--source", "users", "--offset", "orders/1:0"}} {
			require.NotZero(t, s.Run("", append([]string{"trace", "matched"}, wrong...)...).Code, "%v", wrong)
		}
	})

	t.Run("what time decides stays in the trace of its left row", func(t *testing.T) {
		table.Exec("CREATE TABLE looked AS matched")
		s.Apply(fmt.Sprintf(`
id: looked
sources:
  orders: {kafka: {brokers: ["%[1]s"], topic: orders, start: LATEST}}
  users: {kafka: {brokers: ["%[1]s"], topic: users, start: LATEST}}
join: {left: orders, right: users, on: [{left: user, right: user}], kind: LOOKUP, type: INNER, grace: 500ms, idle: 500ms}
columns: [{name: user, from: orders.user}, {name: name, from: users.name}]
sink: {clickhouse: {addr: ["%[2]s"], table: looked}}
batch: {max_delay: 50ms}
lanes: 1
`, kafka.Addr(), s.ClickHouseAddr))
		user, userParent := send("users", 0, 0xb3, `{"user":9,"name":"Cy"}`)
		at := byName(t, jaeger, user, "process users", "process sluice_looked_ingest")["process sluice_looked_ingest"]
		require.NotEqual(t, userParent, at.Parent)
		order, orderParent := send("orders", 1, 0xa3, `{"id":3,"user":9}`)
		awaitRows(t, s.CLI, table, "looked", "looked", 1)
		way := []wayStep{
			{"sluice-join", "process sluice_looked_ingest", "consumer"},
			{"sluice-sink", "process sluice_looked_join", "consumer"},
			{"sluice-sink", "INSERT default.looked", "client"},
		}
		spans := byName(t, jaeger, order, way[0].name, way[1].name, way[2].name)
		parent := spans[way[0].name].Parent // the ingestor's, of this pipeline
		for _, span := range jaeger.Trace(order) {
			if span.ID == parent {
				require.Equal(t, "process orders", span.Name)
				require.Equal(t, orderParent, span.Parent)
				require.Equal(t, "looked", span.Tags["sluice.pipeline"])
			}
		}
		for _, step := range way {
			require.Equal(t, step.service, spans[step.name].Service, step.name)
			require.Equal(t, parent, spans[step.name].Parent, step.name)
			parent = spans[step.name].ID
		}
		// The step that let time go on is linked with the batches of both sides.
		stack.Await(t, stack.Up, "a span of the join with both links", func() (bool, any) {
			var seen [][]string
			for _, span := range jaeger.Traces("sluice-join", map[string]string{"sluice.pipeline": "looked"}) {
				seen = append(seen, span.Links)
				if slices.Contains(span.Links, spans[way[0].name].ID) && slices.Contains(span.Links, at.ID) {
					return true, nil
				}
			}
			return false, seen
		})
		send("orders", 0, 0xa6, `{"id":6,"user":1000}`)
		stack.Await(t, stack.Up, "the order's time is up", func() (bool, any) {
			out := s.Do("trace", "looked", "--source", "orders", "--offset", "0:2")
			return strings.Contains(out, "offset 2  UNMATCHED\ntrace "+fmt.Sprintf("%032x", 0xa6)), out
		})
		require.Contains(t, s.Do("trace", "looked", "--source", "orders", "--key", "9"), "matched with users 0:2")
		r := s.Run("", "trace", "looked", "--source", "orders", "--offset", "1:0")
		require.Contains(t, r.Stdout, "NOT_READ")
	})
}
