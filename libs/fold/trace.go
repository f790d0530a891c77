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

// stepSpan is the span of one step. A batch without rows, which only says how far its partition has come, gets one when it turns out that
// rows of other batches come out because of it.
type stepSpan struct {
	trace.Span // nil: none
	tracing    *tracing
	message    fencedlog.Message
	view       *batch.View
	out        *emitter
}

// begin starts the span of a step and makes it what the step's outputs go on from.
func (t *tracing) begin(m fencedlog.Message, v *batch.View, out *emitter) *stepSpan {
	if t.tracer == nil {
		return nil
	}
	s := &stepSpan{tracing: t, message: m, view: v, out: out}
	if v.Selected > 0 {
		s.start()
	}
	return s
}

func (s *stepSpan) start() {
	t, v := s.tracing, s.view
	ctx := telemetry.Under(context.Background(), telemetry.Parse(v.Traceparent))
	_, s.Span = t.tracer.Start(ctx, t.process, trace.WithSpanKind(trace.SpanKindConsumer))
	v.Traceparent = telemetry.Traceparent(s.SpanContext())
	s.out.trace = s.SpanContext()
	if s.IsRecording() {
		s.SetAttributes(t.lane...)
		s.SetAttributes(telemetry.Read(t.input, s.message.Writer, s.message.Sequence, len(s.message.Data))...)
		s.SetAttributes(telemetry.Offsets(v.Partition, v.FirstOffset, v.LastOffset)...)
		if len(v.Source) > 0 {
			s.SetAttributes(telemetry.Source(string(v.Source)))
		}
	}
}

// link leads to the span of another batch.
func (s *stepSpan) link(other trace.SpanContext) {
	if s.Span == nil {
		s.start()
	}
	if s.IsRecording() {
		s.AddLink(trace.Link{SpanContext: other})
	}
}

// linker is Input.Link.
func (s *stepSpan) linker() func(trace.SpanContext) {
	if s == nil {
		return nil
	}
	return s.link
}

// end ends the span of a step.
func (s *stepSpan) end(before, after batch.Tally, err error) {
	if s == nil || s.Span == nil {
		return
	}
	if s.IsRecording() {
		s.SetAttributes(telemetry.Rows(int(after.Records-before.Records)), telemetry.RowsOut(int(after.Rows-before.Rows)),
			telemetry.Duplicates(int(after.Duplicates-before.Duplicates)), telemetry.Refused(int(after.DeadLetters-before.DeadLetters)))
		telemetry.Fail(s.Span, err, "step", "")
	}
	s.End()
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
