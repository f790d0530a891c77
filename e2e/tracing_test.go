//go:build unix

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// traced runs a pipeline whose services send their spans to a Jaeger.
func traced(t *testing.T, jaeger *stack.Jaeger, endpoint, protocol string) (*stack.Stack, *stack.Producer, *stack.Table) {
	t.Helper()
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := stack.Run(t, bin(t), "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_BSP_SCHEDULE_DELAY=200",
		"OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test", "SLUICE_KEEP_LOGS=0s")
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE orders (id UInt32, note String DEFAULT '') ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 1000`)
	producer := stack.NewProducer(t, kafka.Addr(), "orders", 2)
	s.Apply(fmt.Sprintf(`
id: orders
source: {kafka: {brokers: ["%s"], topic: orders}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["%s"], table: orders}}
batch: {max_delay: 50ms}
lanes: 2
`, kafka.Addr(), s.ClickHouseAddr))
	return s, producer, table
}

// byName waits until a trace has a span of each name, and returns one of each.
func byName(t *testing.T, jaeger *stack.Jaeger, id string, names ...string) map[string]stack.Span {
	t.Helper()
	found := map[string]stack.Span{}
	require.Eventually(t, func() bool {
		clear(found)
		for _, span := range jaeger.Trace(id) {
			found[span.Name] = span
		}
		for _, name := range names {
			if _, ok := found[name]; !ok {
				return false
			}
		}
		return true
	}, stack.Up, 100*time.Millisecond, "trace %s: want %v, have %v", id, names, found)
	return found
}

// way are the spans of an event, each the parent of the next, and whose they are.
var way = []struct{ service, name, kind string }{
	{"sluice-ingestor", "process orders", "consumer"},
	{"sluice-dedup", "process sluice_orders_ingest", "consumer"},
	{"sluice-sink", "process sluice_orders_dedup", "consumer"},
	{"sluice-sink", "INSERT default.orders", "client"},
}

// checkWay checks that the spans are there in their order, below the given parent.
func checkWay(t *testing.T, spans map[string]stack.Span, parent string) {
	t.Helper()
	for _, step := range way {
		span := spans[step.name]
		require.Equal(t, step.service, span.Service, step.name)
		require.Equal(t, step.kind, span.Kind, step.name)
		require.Equal(t, parent, span.Parent, step.name)
		require.Equal(t, "orders", span.Tags["sluice.pipeline"], step.name)
		require.Empty(t, span.Tags["error"], step.name)
		parent = span.ID
	}
	for _, send := range []struct{ name, parent string }{
		{"send sluice_orders_ingest", "process orders"}, {"send sluice_orders_dedup", "process sluice_orders_ingest"},
	} {
		require.Equal(t, spans[send.parent].ID, spans[send.name].Parent)
		require.Equal(t, "producer", spans[send.name].Kind)
	}
	ingest, dedup, sink := spans["send sluice_orders_ingest"], spans["send sluice_orders_dedup"], spans["process sluice_orders_dedup"]
	require.Equal(t, ingest.Tags["sluice.sequence"], spans["process sluice_orders_ingest"].Tags["sluice.sequence"])
	require.Equal(t, dedup.Tags["sluice.sequence"], sink.Tags["sluice.sequence"])
	require.NotEmpty(t, sink.Tags["sluice.sequence"])
}

var wayNames = []string{way[0].name, way[1].name, way[2].name, way[3].name, "send sluice_orders_ingest", "send sluice_orders_dedup"}

// tells waits until the trace of an event says what it should: receipts may come a moment after the rows.
func tells(t *testing.T, s *stack.Stack, what string, args ...string) {
	t.Helper()
	stack.Await(t, stack.Up, fmt.Sprintf("sluice trace %s says %s", args, what), func() (bool, any) {
		r := s.Run("", append([]string{"trace", "orders"}, args...)...)
		return r.Code == 0 && strings.Contains(r.Stdout, what), r
	})
}

// TestTracing: a real Jaeger has one trace from the Kafka record to the ClickHouse insert.
func TestTracing(t *testing.T) {
	jaeger := stack.StartJaeger(t)
	s, producer, table := traced(t, jaeger, jaeger.Endpoint, "grpc")

	t.Run("continues the trace of a record", func(t *testing.T) {
		const traceID, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
		producer.SendRecord(&kgo.Record{Partition: 1, Value: []byte(`{"id":1}`), Headers: []kgo.RecordHeader{
			{Key: "traceparent", Value: []byte("00-" + traceID + "-" + parent + "-01")},
		}})
		producer.Flush()
		s.Wait("orders", 2*time.Minute)
		spans := byName(t, jaeger, traceID, wayNames...)
		checkWay(t, spans, parent)
		tags := spans["process orders"].Tags
		require.Equal(t, "kafka", tags["messaging.system"])
		require.Equal(t, "1", tags["messaging.destination.partition.id"])
		require.Equal(t, "0", tags["messaging.kafka.offset"])
		require.Equal(t, "1", tags["messaging.batch.message_count"])
		require.Equal(t, "0", spans["process sluice_orders_ingest"].Tags["sluice.duplicates"])
		insert := spans["INSERT default.orders"].Tags
		require.Equal(t, "clickhouse", insert["db.system.name"])
		require.Equal(t, "orders", insert["db.collection.name"])
		require.Equal(t, "1", insert["db.operation.batch.size"])
		require.Contains(t, insert["sluice.token"], "sluice/orders.")
		tells(t, s, traceID, "--offset", "1:0")
	})

	t.Run("begins one where there is none", func(t *testing.T) {
		producer.Send(0, nil, []byte(`{"id":2}`))
		producer.Flush()
		s.Wait("orders", 2*time.Minute)
		var root stack.Span
		require.Eventually(t, func() bool {
			for _, span := range jaeger.Traces("sluice-ingestor", map[string]string{"messaging.destination.partition.id": "0"}) {
				if span.Name == "process orders" {
					root = span
				}
			}
			return root.ID != ""
		}, stack.Up, 100*time.Millisecond)
		checkWay(t, byName(t, jaeger, root.TraceID, wayNames...), "")
		tells(t, s, root.TraceID, "--offset", "0:0")
	})

	t.Run("batches that merge are linked", func(t *testing.T) {
		// Both records are in one batch if they come at once; each trace leads to the insert either way.
		for n := range 2 {
			producer.SendRecord(&kgo.Record{Partition: 0, Value: fmt.Appendf(nil, `{"id":%d}`, 10), Headers: []kgo.RecordHeader{
				{Key: "traceparent", Value: fmt.Appendf(nil, "00-%032x-%016x-01", 100+n, 100+n)},
			}})
		}
		producer.Flush()
		s.Wait("orders", 2*time.Minute)
		first := byName(t, jaeger, fmt.Sprintf("%032x", 100), wayNames...)
		checkWay(t, first, fmt.Sprintf("%016x", 100))
		second := byName(t, jaeger, fmt.Sprintf("%032x", 101), "process orders")["process orders"]
		require.Equal(t, fmt.Sprintf("%016x", 101), second.Parent)
		if _, own := second.Tags["messaging.batch.message_count"]; !own {
			require.Contains(t, second.Links, first["process orders"].ID)
		}
	})
	require.Equal(t, 3, table.Count("orders"))

	t.Run("the way of every event can be told", func(t *testing.T) {
		// The second of the two records with the id 10 is a duplicate, and 0:3 is no event.
		producer.Send(0, nil, []byte(`{"id":`))
		producer.Send(0, nil, nil)
		producer.Flush()
		s.Wait("orders", 2*time.Minute)
		for place, want := range map[string]string{
			"0:0": "WRITTEN", "1:0": "WRITTEN", "0:1": "WRITTEN", "0:2": "DUPLICATE", "0:3": "DEAD_LETTER", "0:4": "TOMBSTONE",
		} {
			tells(t, s, want, "--offset", place)
		}
		tells(t, s, "offset 1  WRITTEN", "--key", "10")
		tells(t, s, "offset 2  DUPLICATE", "--key", "10")
		require.Contains(t, s.Do("trace", "orders", "--key", "77"), "no event of this key")
		for _, wrong := range [][]string{{"--offset", "0"}, {"--offset", "0:x"}, {"--offset", "9:0"}, {"--offset", "0:99"}, {"--key", "no json"}, {}} {
			r := s.Run("", append([]string{"trace", "orders"}, wrong...)...)
			require.NotZero(t, r.Code, "%v", wrong)
		}
		// Checkpoints and the sink's housekeeping purge the logs; receipts still tell.
		require.Eventually(t, func() bool {
			out := s.Do("trace", "orders", "--offset", "1:0")
			return !strings.Contains(out, "in the log") && strings.Contains(out, "WRITTEN") && strings.Contains(out, "4bf92f3577b34da6a3ce929d0e0e4736") &&
				strings.Contains(out, "inserted in a block of")
		}, 2*time.Minute, 500*time.Millisecond, "%s", s.Do("trace", "orders", "--offset", "1:0"))
		tells(t, s, "DUPLICATE", "--offset", "0:2")
		t.Logf("\n%s", s.Do("trace", "orders", "--offset", "0:1"))
	})
}
