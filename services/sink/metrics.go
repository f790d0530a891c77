package sink

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"sluice/libs/clickhouse"
)

// metrics are all that the sink counts. Labels: the pipeline, and the classes of errors.
type metrics struct {
	blocks, rows, bytes, refused, failures metric.Int64Counter
	seconds, latency                       metric.Float64Histogram
	blockRows, blockBytes                  metric.Int64Histogram
}

func newMetrics(m metric.Meter) (*metrics, error) {
	var out metrics
	var err error
	counter := func(into *metric.Int64Counter, name, what, unit string) {
		if err == nil {
			*into, err = m.Int64Counter(name, metric.WithDescription(what), metric.WithUnit(unit))
		}
	}
	times := func(into *metric.Float64Histogram, name, what string, bounds ...float64) {
		if err == nil {
			*into, err = m.Float64Histogram(name, metric.WithDescription(what), metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(bounds...))
		}
	}
	sizes := func(into *metric.Int64Histogram, name, what, unit string, bounds ...float64) {
		if err == nil {
			*into, err = m.Int64Histogram(name, metric.WithDescription(what), metric.WithUnit(unit), metric.WithExplicitBucketBoundaries(bounds...))
		}
	}
	counter(&out.blocks, "sluice.sink.blocks", "Blocks delivered.", "{block}")
	counter(&out.rows, "sluice.sink.rows", "Rows written to ClickHouse.", "{row}")
	counter(&out.bytes, "sluice.sink.bytes", "Bytes of columns delivered, uncompressed.", "By")
	counter(&out.refused, "sluice.sink.dead_letters", "Rows that ClickHouse refused.", "{row}")
	counter(&out.failures, "sluice.sink.insert.failures", "Inserts that failed, by what the error means: all but refused data are tried again.", "{insert}")
	times(&out.seconds, "sluice.sink.block.duration", "Time to deliver a block, with all its retries.",
		.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300)
	times(&out.latency, "sluice.latency", "From the Kafka timestamp of a batch's oldest record until ClickHouse has acknowledged the insert.",
		.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300, 3600)
	sizes(&out.blockRows, "sluice.sink.block.rows", "Rows of a block.", "{row}", 1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000)
	sizes(&out.blockBytes, "sluice.sink.block.size", "Bytes of a block, uncompressed.", "By", 1<<10, 16<<10, 256<<10, 1<<20, 4<<20, 16<<20, 64<<20, 256<<20, 1<<30)
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	return &out, nil
}

// block counts a block that is delivered.
func (m *metrics) block(ctx context.Context, pipeline string, b *filled, refused int, began, done time.Time) {
	set := metric.WithAttributes(attribute.String("pipeline", pipeline))
	m.blocks.Add(ctx, 1, set)
	m.rows.Add(ctx, int64(b.rows.count-refused), set)
	m.refused.Add(ctx, int64(refused), set)
	m.bytes.Add(ctx, int64(b.plan.Bytes), set)
	m.seconds.Record(ctx, done.Sub(began).Seconds(), set)
	m.blockRows.Record(ctx, int64(b.rows.count), set)
	m.blockBytes.Record(ctx, int64(b.plan.Bytes), set)
	for _, n := range b.rows.notes {
		if n.oldestMS > 0 && n.batch.GetSelected() > 0 {
			m.latency.Record(ctx, max(0, done.Sub(time.UnixMilli(n.oldestMS)).Seconds()), set)
		}
	}
}

// expect makes the failures of a pipeline visible before there is one.
func (m *metrics) expect(pipeline string) {
	for _, class := range []clickhouse.Class{clickhouse.Ambiguous, clickhouse.Retry, clickhouse.RejectData, clickhouse.Split, clickhouse.Schema} {
		m.failures.Add(context.Background(), 0, metric.WithAttributes(attribute.String("pipeline", pipeline), attribute.String("class", class.String())))
	}
	m.refused.Add(context.Background(), 0, metric.WithAttributes(attribute.String("pipeline", pipeline)))
}

func (m *metrics) failed(ctx context.Context, pipeline string, class clickhouse.Class) {
	m.failures.Add(ctx, 1, metric.WithAttributes(attribute.String("pipeline", pipeline), attribute.String("class", class.String())))
}
