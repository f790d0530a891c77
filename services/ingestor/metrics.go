package ingestor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"sluice/libs/batch"
	"sluice/libs/kafka"
)

// metrics are all that the ingestor counts. Labels: the pipeline, and with a join the source; classes of a fixed set.
type metrics struct {
	records, tombstones, rows, letters, batches, bytes, failures metric.Int64Counter
	latency                                                      metric.Float64Histogram
}

func newMetrics(m metric.Meter) (*metrics, error) {
	if m == nil {
		m = noop.Meter{}
	}
	var out metrics
	var err error
	counter := func(into *metric.Int64Counter, name, unit, what string) {
		if err == nil {
			*into, err = m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		}
	}
	counter(&out.records, "sluice.ingest.records", "{record}", "Records taken from Kafka and settled: in the logs, dead letters and tombstones.")
	counter(&out.tombstones, "sluice.ingest.tombstones", "{record}", "Records with a null value, which are skipped.")
	counter(&out.rows, "sluice.ingest.rows", "{row}", "Rows settled in the ingest log.")
	counter(&out.letters, "sluice.ingest.dead_letters", "{record}", "Records that became dead letters, by reason.")
	counter(&out.batches, "sluice.ingest.batches", "{batch}", "Batches appended to the ingest log.")
	counter(&out.bytes, "sluice.ingest.bytes", "By", "Bytes appended to the ingest log.")
	counter(&out.failures, "sluice.kafka.failures", "{failure}", "Interruptions of reading from Kafka, after which it is tried again, by what they mean.")
	if err == nil {
		out.latency, err = m.Float64Histogram("sluice.ingest.latency", metric.WithUnit("s"),
			metric.WithDescription("From the Kafka timestamp of a batch's oldest record until the batch is in the ingest log."),
			metric.WithExplicitBucketBoundaries(.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300, 3600))
	}
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	return &out, nil
}

// counts are the metrics of one partition. Owned by its loop, but for appended.
type counts struct {
	*metrics
	labels []attribute.KeyValue
	set    metric.MeasurementOption
	seen   batch.Tally // what was counted
}

func (m *metrics) of(pipeline, source string, from batch.Tally) *counts {
	labels := []attribute.KeyValue{attribute.String("pipeline", pipeline)}
	if source != "" {
		labels = append(labels, attribute.String("source", source))
	}
	c := &counts{metrics: m, labels: labels, set: metric.WithAttributes(labels...), seen: from}
	// There from the start, so that the first one is an increase.
	for _, class := range [...]string{"invalid_json", "missing_key", "too_large", "value"} {
		c.letters.Add(context.Background(), 0, c.with(class))
	}
	return c
}

func (c *counts) with(class string) metric.MeasurementOption {
	return metric.WithAttributes(append([]attribute.KeyValue{attribute.String("reason", class)}, c.labels...)...)
}

// settled counts what has been settled since it was last called.
func (c *counts) settled(ctx context.Context, now batch.Tally) {
	c.records.Add(ctx, int64(now.Records-c.seen.Records), c.set)
	c.tombstones.Add(ctx, int64(now.Tombstones-c.seen.Tombstones), c.set)
	c.rows.Add(ctx, int64(now.Rows-c.seen.Rows), c.set)
	c.seen = now
}

// appended counts a batch that is in the log. Called by the appenders.
func (c *counts) appended(ctx context.Context, bytes int, oldestMS int64) {
	c.batches.Add(ctx, 1, c.set)
	c.bytes.Add(ctx, int64(bytes), c.set)
	if oldestMS > 0 {
		c.latency.Record(ctx, max(0, time.Since(time.UnixMilli(oldestMS)).Seconds()), c.set)
	}
}

func (c *counts) refused(ctx context.Context, reason string) {
	c.letters.Add(ctx, 1, c.with(reasonClass(reason)))
}

// reasonClass is a dead letter's reason in a word of a fixed set.
func reasonClass(reason string) string {
	switch {
	case strings.HasPrefix(reason, "invalid JSON"):
		return "invalid_json"
	case strings.HasPrefix(reason, "missing key"):
		return "missing_key"
	case strings.Contains(reason, "does not fit into a message"):
		return "too_large"
	}
	return "value"
}

// expect makes the failures of a pipeline visible before there is one.
func (m *metrics) expect(pipeline string) {
	for _, class := range [...]string{"configuration", "no_topic", "denied", "unreachable", "timeout", "other"} {
		m.failures.Add(context.Background(), 0, metric.WithAttributes(attribute.String("pipeline", pipeline), attribute.String("class", class)))
	}
}

func (m *metrics) failed(ctx context.Context, pipeline string, err error) {
	m.failures.Add(ctx, 1, metric.WithAttributes(attribute.String("pipeline", pipeline), attribute.String("class", failureClass(err))))
}

// failureClass says in a word what keeps us from reading.
func failureClass(err error) string {
	var config *kafka.ConfigError
	switch {
	case errors.As(err, &config):
		return "configuration"
	case errors.Is(err, kafka.ErrNoTopic):
		return "no_topic"
	case errors.Is(err, sarama.ErrTopicAuthorizationFailed), errors.Is(err, sarama.ErrGroupAuthorizationFailed),
		errors.Is(err, sarama.ErrSASLAuthenticationFailed), errors.Is(err, sarama.ErrClusterAuthorizationFailed):
		return "denied"
	case errors.Is(err, sarama.ErrOutOfBrokers), errors.Is(err, syscall.ECONNREFUSED):
		return "unreachable"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "other"
}
