package dedup

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"sluice/libs/fold"
)

// metrics are all that the stage counts. The label is the pipeline.
type metrics struct {
	rows        metric.Int64Counter
	duplicates  metric.Int64Counter
	late        metric.Int64Counter
	bytes       metric.Int64Counter
	foldSeconds metric.Float64Counter
	checkpoints metric.Float64Histogram
}

func newMetrics(m metric.Meter) (*metrics, error) {
	if m == nil {
		m = noop.Meter{}
	}
	var out metrics
	var errs [6]error
	out.rows, errs[0] = m.Int64Counter("sluice.dedup.rows", metric.WithUnit("{row}"),
		metric.WithDescription("Rows taken from the ingest log."))
	out.duplicates, errs[1] = m.Int64Counter("sluice.dedup.duplicates", metric.WithUnit("{row}"),
		metric.WithDescription("Rows dropped as duplicates."))
	out.bytes, errs[2] = m.Int64Counter("sluice.dedup.bytes", metric.WithUnit("By"),
		metric.WithDescription("Bytes read from the ingest log."))
	out.foldSeconds, errs[3] = m.Float64Counter("sluice.dedup.fold.duration", metric.WithUnit("s"),
		metric.WithDescription("Time spent deciding."))
	out.checkpoints, errs[4] = m.Float64Histogram("sluice.dedup.checkpoint.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to make a checkpoint."),
		metric.WithExplicitBucketBoundaries(.001, .005, .01, .05, .1, .5, 1, 5, 10, 60))
	out.late, errs[5] = m.Int64Counter("sluice.dedup.late", metric.WithUnit("{row}"),
		metric.WithDescription("Rows passed that were too late by their event time to be remembered."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("make the metrics: %w", err)
		}
	}
	return &out, nil
}

// of returns the label of a pipeline.
func of(pipeline string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("pipeline", pipeline)))
}

func (m *metrics) batch(ctx context.Context, s fold.Step, late uint64, of metric.MeasurementOption) {
	m.rows.Add(ctx, int64(s.After.Records-s.Before.Records), of)
	m.duplicates.Add(ctx, int64(s.After.Duplicates-s.Before.Duplicates), of)
	m.late.Add(ctx, int64(late), of)
	m.bytes.Add(ctx, int64(s.Bytes), of)
	m.foldSeconds.Add(ctx, s.Took.Seconds(), of)
}

func (m *metrics) checkpoint(ctx context.Context, took time.Duration, of metric.MeasurementOption) {
	m.checkpoints.Record(ctx, took.Seconds(), of)
}
