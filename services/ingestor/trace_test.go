package ingestor

import (
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"sluice/libs/telemetry"
)

// TestABatchGoesOnFromTheFirstTrace: with records of several traces the batch is in one, and the others lead to it.
func TestABatchGoesOnFromTheFirstTrace(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)).Tracer("x")
	o := origin{trace: newTracing(tracer, "p", "orders", "topic", "group", 3, "sluice_p_ingest", "orders-3")}
	parent := func(n int) string { return fmt.Sprintf("00-%032x-%016x-01", n, n) }
	for offset, text := range []string{"", parent(1), parent(1), "nonsense", parent(2)} {
		msg := &sarama.ConsumerMessage{Offset: int64(100 + offset), Timestamp: time.UnixMilli(int64(5000 - offset))}
		if text != "" {
			msg.Headers = []*sarama.RecordHeader{{Key: []byte("other"), Value: []byte("x")}, {Key: []byte("traceparent"), Value: []byte(text)}}
		}
		o.note(msg)
	}
	require.EqualValues(t, 4996, o.oldestMS)
	carried := telemetry.Parse(o.begin(5))
	require.Equal(t, string(telemetry.Traceparent(carried)), string(o.begin(5)), "begun once")
	ctx, ended := o.append(t.Context(), 2, 1000)
	ended(77, nil)
	require.Equal(t, carried.TraceID(), trace.SpanContextFromContext(ctx).TraceID())

	list := spans.GetSpans()
	require.Len(t, list, 3)
	send, other, batch := list[0], list[1], list[2]
	require.Equal(t, "send sluice_p_ingest", send.Name)
	require.Equal(t, batch.SpanContext.SpanID(), send.Parent.SpanID())
	require.Equal(t, "process topic", batch.Name)
	require.Equal(t, carried.SpanID(), batch.SpanContext.SpanID())
	require.Equal(t, trace.TraceID{15: 1}, batch.SpanContext.TraceID())
	require.Equal(t, trace.SpanID{7: 1}, batch.Parent.SpanID())
	require.Equal(t, trace.TraceID{15: 2}, batch.Links[0].SpanContext.TraceID())
	require.Equal(t, trace.TraceID{15: 2}, other.SpanContext.TraceID())
	require.Equal(t, batch.SpanContext.SpanID(), other.Links[0].SpanContext.SpanID())
	attributes := map[string]string{}
	for _, a := range batch.Attributes {
		attributes[string(a.Key)] = a.Value.String()
	}
	require.Equal(t, map[string]string{
		"sluice.pipeline": "p", "sluice.source": "orders", "sluice.lane": "2", "sluice.sequence": "77",
		"messaging.system": "kafka", "messaging.operation.name": "process", "messaging.operation.type": "process",
		"messaging.destination.name": "topic", "messaging.destination.partition.id": "3", "messaging.consumer.group.name": "group",
		"messaging.batch.message_count": "5", "messaging.kafka.offset": "100", "sluice.offset.first": "100", "sluice.offset.last": "104",
	}, attributes)

	o.reset()
	require.Nil(t, o.begin(0), "a batch without rows has no span")
}

// TestWithoutACollectorABatchHasNoSpan: of a record only its time is looked at.
func TestWithoutACollectorABatchHasNoSpan(t *testing.T) {
	o := origin{trace: newTracing(noop.NewTracerProvider().Tracer(""), "p", "", "topic", "group", 3, "sluice_p_ingest", "3")}
	msg := &sarama.ConsumerMessage{Timestamp: time.UnixMilli(7), Headers: []*sarama.RecordHeader{
		{Key: []byte("traceparent"), Value: []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")},
	}}
	require.Zero(t, testing.AllocsPerRun(100, func() { o.note(msg) }))
	require.EqualValues(t, 7, o.oldestMS)
	require.Nil(t, o.begin(1))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		_, ended := o.append(t.Context(), 1, 1)
		ended(1, nil)
	}))
}

func TestReasonsHaveAFewClasses(t *testing.T) {
	for reason, class := range map[string]string{
		"invalid JSON at byte 3: unexpected end": "invalid_json", "missing key field": "missing_key", "missing key: the field is null": "missing_key",
		"the event of 9 bytes does not fit into a message of the log: …": "too_large", `column "a": 300 does not fit UInt8`: "value",
	} {
		require.Equal(t, class, reasonClass(reason), reason)
	}
}
