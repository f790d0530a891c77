package service

import (
	"context"
	"fmt"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	stagev1 "sluice/gen/sluice/stage/v1"
)

// unitMetrics are the numbers that every stage knows of its partitions and lanes. They are read from the stages' statuses
// when they are asked for; a unit shows where it is owned, and nowhere else. Labels: pipeline, stage, and partition or lane,
// with a join also the source.
type unitMetrics struct {
	partitionLag, laneLag, waiting, keys, bytes, buffered metric.Int64ObservableGauge
	watermark                                             metric.Float64ObservableGauge
	lost, healed                                          metric.Int64ObservableCounter
}

func observeUnits(m metric.Meter, stages *stageServer) error {
	var u unitMetrics
	var err error
	gauge := func(into *metric.Int64ObservableGauge, name, unit, what string) {
		if err == nil {
			*into, err = m.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(what))
		}
	}
	counter := func(into *metric.Int64ObservableCounter, name, unit, what string) {
		if err == nil {
			*into, err = m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(what))
		}
	}
	gauge(&u.partitionLag, "sluice.partition.lag", "{record}", "Records of a Kafka partition that are not in the ingest log yet.")
	gauge(&u.laneLag, "sluice.lane.lag", "{batch}", "Batches of the upstream log that wait before a lane.")
	gauge(&u.waiting, "sluice.unit.waiting", "{unit}", "1 while a partition or lane waits for Kafka, NATS or ClickHouse, or retries; 0 while it works.")
	gauge(&u.keys, "sluice.lane.state.keys", "{key}", "Keys or rows that a lane remembers.")
	gauge(&u.bytes, "sluice.lane.state.size", "By", "Memory that a lane's state takes.")
	gauge(&u.buffered, "sluice.join.buffered", "{row}", "Rows that wait for a counterpart, by source.")
	counter(&u.lost, "sluice.partition.lost", "{record}", "Offsets that Kafka no longer had when their turn came.")
	counter(&u.healed, "sluice.lane.healed", "{row}", "Rows dropped after a log had lost its tail, since they had been taken before.")
	if err == nil {
		u.watermark, err = m.Float64ObservableGauge("sluice.join.watermark", metric.WithUnit("s"),
			metric.WithDescription("Event time that a source has reached, in seconds since 1970."))
	}
	if err == nil {
		_, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
			list, _ := stages.list()
			for _, stage := range list {
				for _, status := range stage.Status("") {
					u.observe(o, status)
				}
			}
			return nil
		}, u.partitionLag, u.laneLag, u.waiting, u.keys, u.bytes, u.buffered, u.watermark, u.lost, u.healed)
	}
	if err != nil {
		return fmt.Errorf("make the metrics: %w", err)
	}
	return nil
}

func (u *unitMetrics) observe(o metric.Observer, s *stagev1.UnitStatus) {
	number := strconv.FormatUint(uint64(s.GetUnit()), 10)
	common := []attribute.KeyValue{attribute.String("pipeline", s.GetPipeline()), attribute.String("stage", s.GetStage())}
	waiting := int64(0)
	if s.GetCondition() == stagev1.UnitStatus_WAITING {
		waiting = 1
	}
	if s.GetStage() == "ingest" {
		labels := append(common, attribute.String("partition", number))
		if s.GetSource() != "" {
			labels = append(labels, attribute.String("source", s.GetSource()))
		}
		set := metric.WithAttributes(labels...)
		o.ObserveInt64(u.partitionLag, int64(s.GetLag()), set)
		o.ObserveInt64(u.lost, int64(s.GetLostOffsets()), set)
		o.ObserveInt64(u.waiting, waiting, set)
		return
	}
	labels := append(common, attribute.String("lane", number))
	set := metric.WithAttributes(labels...)
	o.ObserveInt64(u.laneLag, int64(s.GetLag()), set)
	o.ObserveInt64(u.healed, int64(s.GetHealedRows()), set)
	o.ObserveInt64(u.waiting, waiting, set)
	if s.GetStage() != "sink" {
		o.ObserveInt64(u.keys, int64(s.GetStateKeys()), set)
		o.ObserveInt64(u.bytes, int64(s.GetStateBytes()), set)
	}
	for source, rows := range s.GetBufferedRows() {
		o.ObserveInt64(u.buffered, int64(rows), metric.WithAttributes(labels...), metric.WithAttributes(attribute.String("source", source)))
	}
	for source, ms := range s.GetWatermarkMs() {
		o.ObserveFloat64(u.watermark, float64(ms)/1000, metric.WithAttributes(labels...), metric.WithAttributes(attribute.String("source", source)))
	}
}
