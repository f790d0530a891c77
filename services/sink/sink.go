// Package sink moves the rows of a pipeline's last log into ClickHouse.
//
// Guaranteed: each row of the log is in the table exactly once, whatever is killed, if the table recognises repeated
// blocks (clickhouse.GuaranteeOf); else at least once. A block is a contiguous range of a lane's log; its range
// is durable before it is sent, so that a restart sends exactly the same rows under the same token. A row that the table
// refuses goes to the dead-letter log and takes none of its neighbours along. A block in doubt is sent again for as
// long as it takes, and is never given up. Memory is bounded by two blocks (batch.bytes) a lane, and a third
// while a refused one is taken apart, however long the table is away.
// An instance that was stopped and wakes up when another has its lane writes nothing any more (docs/adr/0010).
//
// Not guaranteed: exactly once for a block that stays in doubt for longer than the table remembers tokens, where its
// other lanes, or other writers, go on inserting meanwhile.
package sink

import (
	"context"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/metric/noop"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/receipts"
	"sluice/libs/service"
	"sluice/libs/spec"
)

const stageName = "sink"

// Sink runs this instance's share of the lanes of all pipelines. It is a service.Service and a service.Stage.
type Sink struct {
	*lanes.Manager
	deps     service.Deps
	registry lanes.Registry
	metrics  *metrics
}

var (
	_ service.Service = (*Sink)(nil)
	_ service.Stage   = (*Sink)(nil)
)

// New makes the sink; Run sets it to work.
func New(deps service.Deps, registry lanes.Registry) (*Sink, error) {
	if deps.Meter == nil {
		deps.Meter = noop.NewMeterProvider().Meter(stageName)
	}
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, err
	}
	s := &Sink{deps: deps, registry: registry, metrics: m}
	s.Manager = lanes.New(lanes.Config{
		Stage: stageName, Instance: deps.Instance, JS: deps.JS, Registry: registry, Log: deps.Log, Meter: deps.Meter,
		Wanted: wanted, Run: s.lane,
	})
	return s, nil
}

// wanted: a paused pipeline still settles what is in its logs.
func wanted(r *controlv1.PipelineRecord) bool {
	return r.GetDesired() != controlv1.DesiredState_DELETING
}

// lane runs one lane until it is given up.
func (s *Sink) lane(ctx context.Context, owned *lanes.Lane) error {
	l, err := s.newLane(owned, owned.Pipeline, owned.Index, owned.Log)
	if err != nil {
		return err
	}
	return l.run(ctx)
}

func (s *Sink) newLane(u unit, record *controlv1.PipelineRecord, index int, log *slog.Logger) (*lane, error) {
	p := record.GetSpec()
	sink := p.GetSink().GetClickhouse()
	layouts, err := layoutsOf(record)
	if err != nil {
		return nil, err
	}
	inserter, err := clickhouse.NewInserter(sink)
	if err != nil {
		return nil, fmt.Errorf("sink: %w", err)
	}
	s.metrics.expect(p.GetId())
	l := &lane{
		unit: u, js: s.deps.JS, log: log, metrics: s.metrics, instance: s.deps.Instance, record: record, index: index,
		upstream: fencedlog.Log{Pipeline: p.GetId(), Stage: spec.Upstream(p, stageName)},
		purger:   fencedlog.Purger{After: s.deps.KeepLogs},
		table:    clickhouse.TableName(sink), layouts: layouts, inserter: inserter,
		trouble: trouble{unit: u}, pace: pace{firstBackoff, lastBackoff}, tracer: s.deps.Tracer,
		same: lanes.Same(s.registry, record), notBehind: lanes.NotBehind(s.registry, record),
		publish: func(r *eventv1.Receipt) error { return receipts.Publish(s.deps.NATS, p.GetId(), r) },
		nats:    s.deps.NATS,
	}
	l.letters = &letters{
		js: s.deps.JS, pipeline: p.GetId(),
		options: deadletters.Options{
			Stage: stageName, Lane: index, MaxPayload: s.deps.NATS.MaxPayload(), Sources: sources(p),
			ClientID: "sluice-sink-" + p.GetId(), Wait: l.trouble.sending,
		},
		locator: &locator{js: s.deps.JS, upstream: l.upstream, lane: index, left: leftOf(p), waiting: l.trouble.sending},
	}
	return l, nil
}

// sources are those of the pipeline by name; the only one of a pipeline without a join has none.
func sources(p *controlv1.Pipeline) map[string]*controlv1.KafkaSource {
	out := map[string]*controlv1.KafkaSource{}
	for _, b := range spec.Branches(p) {
		out[b.Source] = b.Spec.GetKafka()
	}
	return out
}
