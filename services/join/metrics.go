package join

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"sluice/libs/fold"
)

// metrics are all that the stage counts. There are no labels.
type metrics struct {
	rows        metric.Int64Counter
	out         metric.Int64Counter
	matched     metric.Int64Counter
	unmatched   metric.Int64Counter
	late        metric.Int64Counter
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

func (m *metrics) step(ctx context.Context, s fold.Step) {
	b, a := s.Before, s.After
	m.rows.Add(ctx, int64(a.Records-b.Records))
	m.out.Add(ctx, int64(a.Rows-b.Rows))
	m.matched.Add(ctx, int64(a.Matched-b.Matched))
	m.unmatched.Add(ctx, int64(a.Unmatched-b.Unmatched))
	m.late.Add(ctx, int64(a.Late-b.Late))
	m.dropped.Add(ctx, int64(a.Dropped-b.Dropped))
	m.bytes.Add(ctx, int64(s.Bytes))
	m.foldSeconds.Add(ctx, s.Took.Seconds())
}

func (m *metrics) checkpoint(ctx context.Context, took time.Duration) {
	m.checkpoints.Record(ctx, took.Seconds())
}
