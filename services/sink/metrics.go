package sink

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sluice/libs/clickhouse"
)

// metrics are all that the sink counts. Labels are bounded: the classes of errors.
type metrics struct {
	blocks   metric.Int64Counter
	rows     metric.Int64Counter
	bytes    metric.Int64Counter
	refused  metric.Int64Counter
	failures metric.Int64Counter
	seconds  metric.Float64Histogram
}

func newMetrics(m metric.Meter) (*metrics, error) {
	var out metrics
	var err error
	counter := func(into *metric.Int64Counter, name, what, unit string) {
		if err == nil {
			*into, err = m.Int64Counter(name, metric.WithDescription(what), metric.WithUnit(unit))
		}
	}
	counter(&out.blocks, "sluice.sink.blocks", "Blocks delivered.", "{block}")
	counter(&out.rows, "sluice.sink.rows", "Rows written to ClickHouse.", "{row}")
	counter(&out.bytes, "sluice.sink.bytes", "Bytes of columns delivered, uncompressed.", "By")
	counter(&out.refused, "sluice.sink.dead_letters", "Rows that ClickHouse refused.", "{row}")
	counter(&out.failures, "sluice.sink.insert.failures", "Inserts that failed, by what the error means.", "{insert}")
	if err == nil {
		out.seconds, err = m.Float64Histogram("sluice.sink.block.duration", metric.WithUnit("s"),
			metric.WithDescription("Time to deliver a block, with all its retries."),
			metric.WithExplicitBucketBoundaries(.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300))
	}
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	return &out, nil
}

func (m *metrics) block(ctx context.Context, rows, refused, bytes int, took time.Duration) {
	m.blocks.Add(ctx, 1)
	m.rows.Add(ctx, int64(rows-refused))
	m.refused.Add(ctx, int64(refused))
	m.bytes.Add(ctx, int64(bytes))
	m.seconds.Record(ctx, took.Seconds())
}

func (m *metrics) failed(ctx context.Context, class clickhouse.Class) {
	m.failures.Add(ctx, 1, metric.WithAttributes(attribute.String("class", class.String())))
}
