package fold

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/telemetry"
)

// tracing makes the spans of a lane: one for each step ("process"), a child of the one that made the batch, and one for each
// message until it is in the log ("send"). What was in the log when the lane was taken has spans of then.
type tracing struct {
	tracer  trace.Tracer // nil: disabled
	process string
	send    string
	input   string // stream
	output  string
	writer  string
	lane    []attribute.KeyValue
}

func newTracing(o *Options) *tracing {
	if !telemetry.Enabled(o.Tracer) {
		return &tracing{}
	}
	return &tracing{
		tracer: o.Tracer, input: o.Input.Stream(), output: o.Output.Stream(), writer: o.writer(),
		process: "process " + o.Input.Stream(), send: "send " + o.Output.Stream(), lane: telemetry.Lane(o.Pipeline, o.Lane),
	}
}

// begin starts the span of a step and makes it what the step's outputs go on from. nil when there is none.
func (t *tracing) begin(m fencedlog.Message, v *batch.View) trace.Span {
	if t.tracer == nil {
		return nil
	}
	ctx := telemetry.Under(context.Background(), telemetry.Parse(v.Traceparent))
	_, span := t.tracer.Start(ctx, t.process, trace.WithSpanKind(trace.SpanKindConsumer))
	v.Traceparent = telemetry.Traceparent(span.SpanContext())
	if span.IsRecording() {
		span.SetAttributes(t.lane...)
		span.SetAttributes(telemetry.Read(t.input, m.Writer, m.Sequence, len(m.Data))...)
		span.SetAttributes(telemetry.Offsets(v.Partition, v.FirstOffset, v.LastOffset)...)
		if len(v.Source) > 0 {
			span.SetAttributes(telemetry.Source(string(v.Source)))
		}
	}
	return span
}

// end ends the span of a step.
func (t *tracing) end(span trace.Span, before, after batch.Tally, err error) {
	if span == nil {
		return
	}
	if span.IsRecording() {
		span.SetAttributes(telemetry.Rows(int(after.Records-before.Records)), telemetry.RowsOut(int(after.Rows-before.Rows)),
			telemetry.Duplicates(int(after.Duplicates-before.Duplicates)), telemetry.Refused(int(after.DeadLetters-before.DeadLetters)))
		telemetry.Fail(span, err, "step", "")
	}
	span.End()
}

// append starts the span of a message on its way into the log.
func (t *tracing) append(ctx context.Context, o output) (context.Context, func(sequence uint64, err error)) {
	if t.tracer == nil || !o.trace.IsSampled() {
		return ctx, func(uint64, error) {}
	}
	ctx, span := t.tracer.Start(telemetry.Under(ctx, o.trace), t.send, trace.WithSpanKind(trace.SpanKindProducer))
	return ctx, func(sequence uint64, err error) {
		span.SetAttributes(t.lane...)
		span.SetAttributes(telemetry.Append(t.output, t.writer, len(o.data))...)
		span.SetAttributes(telemetry.Sequence(sequence), telemetry.InputSequence(o.position.step))
		telemetry.Fail(span, err, "append", "")
		span.End()
	}
}
