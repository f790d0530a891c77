package telemetry

import (
	"context"
	"log/slog"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// quiet keeps an exporter's failures from the SDK, which prints every one of them past our log: one line when it begins to
// fail, one when it works again.
type quiet struct {
	sdktrace.SpanExporter
	log     *slog.Logger
	failing atomic.Bool
}

func (q *quiet) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := q.SpanExporter.ExportSpans(ctx, spans)
	switch {
	case err != nil && !q.failing.Swap(true):
		q.log.Warn("traces cannot be sent; spans are dropped until they can", "error", err)
	case err == nil && q.failing.Swap(false):
		q.log.Info("traces are sent again")
	}
	return nil
}
