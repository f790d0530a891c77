package ingestor

import (
	"context"
	"time"

	"github.com/IBM/sarama"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"sluice/libs/telemetry"
)

// tracing makes the spans of one partition: one for each batch, from its first record until it is in the log, and within it one
// for the append. The batch's span goes on from the trace of its first record that has one. Further records that have a
// trace of their own each get a span there, which links to the batch's; up to telemetry.MaxLinks of a batch.
type tracing struct {
	tracer  trace.Tracer // nil: disabled
	process string
	send    string
	topic   string
	group   string
	number  int32
	stream  string
	writer  string
	common  []attribute.KeyValue
}

func newTracing(tracer trace.Tracer, pipeline, source, topic, group string, partition int32, stream, writer string) *tracing {
	t := &tracing{
		process: "process " + topic, send: "send " + stream, topic: topic, group: group, number: partition,
		stream: stream, writer: writer, common: telemetry.Lane(pipeline, 0)[:1],
	}
	if source != "" {
		t.common = append(t.common, telemetry.Source(source))
	}
	if telemetry.Enabled(tracer) {
		t.tracer = tracer
	}
	return t
}

// origin is where the rows of a buffer come from, as far as their trace and their latency go.
type origin struct {
	trace *tracing // nil: disabled

	since    time.Time // of the first record
	oldestMS int64     // oldest Kafka timestamp
	first    int64
	last     int64
	merge    telemetry.Merge
	span     trace.Span // once begun
}

// note takes a record that became a row.
func (o *origin) note(msg *sarama.ConsumerMessage) {
	if ms := msg.Timestamp.UnixMilli(); ms > 0 && (o.oldestMS == 0 || ms < o.oldestMS) {
		o.oldestMS = ms
	}
	if o.trace == nil || o.trace.tracer == nil {
		return
	}
	if o.since.IsZero() {
		o.since, o.first = time.Now(), msg.Offset
	}
	o.last = msg.Offset
	for _, h := range msg.Headers {
		if string(h.Key) == telemetry.Header {
			o.merge.AddText(h.Value)
		}
	}
}

// begin starts the batch's span and returns its context as the batch carries it; nil when there is none.
func (o *origin) begin(rows int) []byte {
	if o.since.IsZero() {
		return nil
	}
	if o.span == nil {
		ctx := telemetry.Under(context.Background(), o.merge.Parent())
		_, o.span = o.trace.tracer.Start(ctx, o.trace.process, trace.WithSpanKind(trace.SpanKindConsumer),
			trace.WithTimestamp(o.since), trace.WithLinks(o.merge.Links()...))
		if o.span.IsRecording() {
			o.span.SetAttributes(o.trace.common...)
			o.span.SetAttributes(telemetry.Kafka(o.trace.topic, o.trace.group, o.trace.number, rows, o.first, o.last)...)
			if left := o.merge.Left(); left > 0 {
				o.span.SetAttributes(telemetry.Unlinked(left))
			}
		}
	}
	return telemetry.Traceparent(o.span.SpanContext())
}

// append starts the span of the append; the function ends it, and the batch's with it.
func (o *origin) append(ctx context.Context, lane, bytes int) (context.Context, func(sequence uint64, err error)) {
	if o.span == nil || !o.span.IsRecording() {
		return ctx, func(uint64, error) {}
	}
	t := o.trace
	o.span.SetAttributes(telemetry.Lane("", lane)[1])
	ctx, span := t.tracer.Start(trace.ContextWithSpan(ctx, o.span), t.send, trace.WithSpanKind(trace.SpanKindProducer))
	return ctx, func(sequence uint64, err error) {
		span.SetAttributes(t.common...)
		span.SetAttributes(telemetry.Lane("", lane)[1], telemetry.Sequence(sequence))
		span.SetAttributes(telemetry.Append(t.stream, t.writer, bytes)...)
		telemetry.Fail(span, err, "append", "")
		span.End()
		o.span.SetAttributes(telemetry.Sequence(sequence))
		telemetry.Fail(o.span, err, "append", "")
		o.end()
	}
}

// end ends the batch's span, and leads the traces that it does not go on from to it.
func (o *origin) end() {
	batch := trace.Link{SpanContext: o.span.SpanContext()}
	for _, other := range o.merge.Others() {
		_, span := o.trace.tracer.Start(telemetry.Under(context.Background(), other), o.trace.process,
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(o.since), trace.WithLinks(batch))
		span.SetAttributes(o.trace.common...)
		span.End()
	}
	o.span.End()
}

// reset forgets all but the memory.
func (o *origin) reset() {
	o.since, o.oldestMS, o.first, o.last, o.span = time.Time{}, 0, 0, 0, nil
	o.merge.Reset()
}
