package sink

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"sluice/libs/clickhouse"
	"sluice/libs/telemetry"
)

// maxSpans bounds the batches of a block that get a span, and the links of its insert.
const maxSpans = 128

// blockSpans are the spans of one block: one for each batch ("process"), a child of the one that made it, from when it was read
// until it is in the table; and one for each attempt to insert (INSERT), a child of the first batch's and linked with the others.
// So the trace of every batch tells that it was inserted, and leads to where the insert is. Nil: nothing is traced.
type blockSpans struct {
	tracer  trace.Tracer
	lane    *lane
	batches []trace.Span
	insert  trace.SpanContext // of the last attempt
}

// beginSpans starts the spans of a block's batches. The context that it returns carries the first one's.
func (l *lane) beginSpans(ctx context.Context, b *filled) (context.Context, *blockSpans) {
	if !telemetry.Enabled(l.tracer) {
		return ctx, nil
	}
	s := &blockSpans{tracer: l.tracer, lane: l}
	name := "process " + l.upstream.Stream()
	block := append(telemetry.Lane(l.record.GetSpec().GetId(), l.index), telemetry.Block(b.plan.First, b.plan.Last)...)
	for _, n := range b.rows.notes {
		if n.batch.GetSelected() == 0 || !n.trace.IsSampled() {
			continue
		}
		if len(s.batches) == maxSpans {
			break
		}
		_, span := l.tracer.Start(telemetry.Under(context.Background(), n.trace), name,
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(n.read), trace.WithAttributes(block...))
		span.SetAttributes(telemetry.Read(l.upstream.Stream(), n.writer, n.batch.GetSequence(), n.bytes)...)
		span.SetAttributes(telemetry.Rows(int(n.batch.GetSelected())))
		if !n.batch.GetJoined() {
			span.SetAttributes(telemetry.Offsets(n.batch.GetPartition(), n.batch.GetFirstOffset(), n.batch.GetLastOffset())...)
		}
		s.batches = append(s.batches, span)
	}
	if len(s.batches) > 0 {
		ctx = trace.ContextWithSpan(ctx, s.batches[0])
	}
	return ctx, s
}

// attempt starts the span of an INSERT. The trace context in ctx is what ClickHouse is told.
func (s *blockSpans) attempt(ctx context.Context, what *clickhouse.Insert) (context.Context, func(error)) {
	if s == nil || len(s.batches) == 0 {
		return ctx, func(error) {}
	}
	links := make([]trace.Link, 0, len(s.batches)-1)
	for _, batch := range s.batches[1:] {
		links = append(links, trace.Link{SpanContext: batch.SpanContext()})
	}
	ctx, span := s.tracer.Start(ctx, "INSERT "+what.Table.String(), trace.WithSpanKind(trace.SpanKindClient), trace.WithLinks(links...))
	s.insert = span.SpanContext()
	span.SetAttributes(telemetry.Insert(what.Table.Database, what.Table.Table, what.Columns[0].Data.Rows(), what.Token)...)
	span.SetAttributes(telemetry.Lane(s.lane.record.GetSpec().GetId(), s.lane.index)...)
	return ctx, func(err error) {
		code := ""
		var server *clickhouse.ServerError
		if errors.As(err, &server) {
			code = strconv.Itoa(server.Code)
		}
		if err != nil {
			telemetry.Fail(span, err, clickhouse.Classify(err).String(), code)
		}
		span.End()
	}
}

// end ends the spans of the batches.
func (s *blockSpans) end(rows int, refused uint64, bytes int, done time.Time, err error) {
	if s == nil {
		return
	}
	for i, span := range s.batches {
		if i == 0 {
			span.SetAttributes(telemetry.RowsOut(rows), telemetry.Refused(int(refused)), telemetry.Bytes(bytes))
		} else if s.insert.IsValid() {
			span.AddLink(trace.Link{SpanContext: s.insert})
		}
		telemetry.Fail(span, err, "block", "")
		span.End(trace.WithTimestamp(done))
	}
}
