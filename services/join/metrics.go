package join

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"sluice/libs/fold"
)

// metrics are all that the stage counts. Labels: the pipeline, and the reason of a dead letter.
type metrics struct {
	rows        metric.Int64Counter
	out         metric.Int64Counter
	matched     metric.Int64Counter
	unmatched   metric.Int64Counter
	late        metric.Int64Counter
	refused     metric.Int64Counter
	dropped     metric.Int64Counter
	bytes       metric.Int64Counter
	foldSeconds metric.Float64Counter
	checkpoints metric.Float64Histogram
}

func newMetrics(m metric.Meter) (*metrics, error) {
	if m == nil {
		m = noop.Meter{}
	}
	var out metrics
	for _, c := range []struct {
		counter           *metric.Int64Counter
		name, unit, about string
	}{
		{&out.rows, "rows", "{row}", "Rows taken from the upstream log, of both sources."},
		{&out.out, "joined", "{row}", "Rows put out."},
		{&out.matched, "matched", "{row}", "Left rows that met a right row."},
		{&out.unmatched, "unmatched", "{row}", "Left rows put out alone."},
		{&out.late, "late", "{row}", "Rows that came behind the watermark and went to the dead letters."},
		{&out.refused, "dead_letters", "{row}", "Rows refused, by reason."},
		{&out.dropped, "dropped", "{row}", "Rows that had no key or never met another, and were not put out."},
		{&out.bytes, "bytes", "By", "Bytes read from the upstream log."},
	} {
		var err error
		if *c.counter, err = m.Int64Counter("sluice.join."+c.name, metric.WithUnit(c.unit), metric.WithDescription(c.about)); err != nil {
			return nil, fmt.Errorf("make the metrics: %w", err)
		}
	}
	var err error
	if out.foldSeconds, err = m.Float64Counter("sluice.join.fold.duration", metric.WithUnit("s"), metric.WithDescription("Time spent matching.")); err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	out.checkpoints, err = m.Float64Histogram("sluice.join.checkpoint.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to make a checkpoint."),
		metric.WithExplicitBucketBoundaries(.001, .005, .01, .05, .1, .5, 1, 5, 10, 60))
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	return &out, nil
}

// of returns the label of a pipeline, and more.
func of(pipeline string, more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(append(more, attribute.String("pipeline", pipeline))...))
}

// labels are those of one pipeline.
type labels struct{ pipeline, late, tooLarge metric.MeasurementOption }

func labelsOf(pipeline string) labels {
	return labels{of(pipeline), of(pipeline, attribute.String("reason", "late")), of(pipeline, attribute.String("reason", "too_large"))}
}

func (m *metrics) step(ctx context.Context, s fold.Step, l labels) {
	b, a := s.Before, s.After
	m.rows.Add(ctx, int64(a.Records-b.Records), l.pipeline)
	m.out.Add(ctx, int64(a.Rows-b.Rows), l.pipeline)
	m.matched.Add(ctx, int64(a.Matched-b.Matched), l.pipeline)
	m.unmatched.Add(ctx, int64(a.Unmatched-b.Unmatched), l.pipeline)
	late := int64(a.Late - b.Late)
	m.late.Add(ctx, late, l.pipeline)
	m.refused.Add(ctx, late, l.late)
	m.refused.Add(ctx, max(int64(a.DeadLetters-b.DeadLetters)-late, 0), l.tooLarge)
	m.dropped.Add(ctx, int64(a.Dropped-b.Dropped), l.pipeline)
	m.bytes.Add(ctx, int64(s.Bytes), l.pipeline)
	m.foldSeconds.Add(ctx, s.Took.Seconds(), l.pipeline)
}

func (m *metrics) checkpoint(ctx context.Context, took time.Duration, l labels) {
	m.checkpoints.Record(ctx, took.Seconds(), l.pipeline)
}
