// Package dedup is the stage that drops duplicates: it reads a pipeline's ingest log, clears the
// selection bit of each event whose key was seen within the window, and appends the batches, their
// columns as they were, to the dedup log.
//
// In a pipeline with a join it keeps a set of keys for each source that has dedup and passes the batches of the other on. Where a source's
// dedup key is not its join key, it takes that source's batches apart: each row goes on in the lane of its join key, and each lane gets a message
// for each batch, without rows if need be, so that it learns how far the partition has come.
//
// Guaranteed: each message of the ingest log leads to exactly one message of the dedup log (of each lane, if it is taken apart; of none, if it has
// no rows and there is no join), in each lane in the order of the ingest log, whatever is killed when. What a message says depends only on
// the ingest log before it. What package fold says of state, replay and lost tails holds; what is a duplicate says package window.
//
// Not guaranteed: that times of arrival survive the loss of the ingest log's tail: rows that are read from Kafka again have arrived again, and
// their keys are remembered from then on.
//
// The batches' keys, times and versions end here: no later stage asks for them, and without them the
// dedup log is a third smaller.
package dedup

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/lanes"
	"sluice/libs/receipts"
	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/libs/spec"
	"sluice/services/dedup/internal/window"
)

const stageName = "dedup"

// Dedup runs this instance's share of the lanes of all pipelines that have a dedup section. It is a
// service.Service and a service.Stage.
type Dedup struct {
	*lanes.Manager
	deps     service.Deps
	registry lanes.Registry
	metrics  *metrics
}

var (
	_ service.Service = (*Dedup)(nil)
	_ service.Stage   = (*Dedup)(nil)
)

// Build makes the service for its binary, once JetStream is there.
func Build(ctx context.Context, deps service.Deps) (service.Service, error) {
	reg, err := registry.Open(ctx, deps.JS)
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	return New(deps, reg)
}

// New makes the stage; Run sets it to work.
func New(deps service.Deps, reg lanes.Registry) (*Dedup, error) {
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, err
	}
	d := &Dedup{deps: deps, registry: reg, metrics: m}
	d.Manager = lanes.New(lanes.Config{
		Stage: stageName, Instance: deps.Instance, JS: deps.JS, Registry: reg, Log: deps.Log, Meter: deps.Meter,
		Wanted: wanted, Run: d.lane,
	})
	return d, nil
}

// wanted: a paused pipeline still settles what is in its logs.
func wanted(r *controlv1.PipelineRecord) bool {
	return slices.Contains(spec.Stages(r.GetSpec()), stageName) && r.GetDesired() != controlv1.DesiredState_DELETING
}

func (d *Dedup) lane(ctx context.Context, owned *lanes.Lane) error {
	return d.run(ctx, owned, owned.Pipeline, owned.Index, owned.Log, 0)
}

// run runs a lane; interval is between checkpoints, 0: the usual.
func (d *Dedup) run(ctx context.Context, u fold.Unit, record *controlv1.PipelineRecord, index int, log *slog.Logger, interval time.Duration) error {
	p := record.GetSpec()
	set, before, err := spec.LaneSetAndBefore(record, index)
	if err != nil {
		return err
	}
	c, err := newCore(record, index, set, log)
	if err != nil {
		return err
	}
	stages := spec.Stages(p)
	var late uint64
	seen, of := d.receipts(p, index, log), of(p.GetId())
	return fold.Run(ctx, c, fold.Options{
		JS: d.deps.JS, Log: log, Unit: u, Pipeline: p.GetId(), Stage: stageName, Lane: index,
		Set: set, Before: before, Replaced: set != spec.CurrentLanes(record), Live: spec.LiveLanes(record), Same: lanes.Same(d.registry, record),
		Generation: record.GetGeneration(), NotBehind: lanes.NotBehind(d.registry, record),
		Input:  fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Ingest},
		Output: fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Dedup}, Outputs: c.outputs(),
		Next:      stages[slices.Index(stages, stageName)+1],
		SealAfter: c.sealAfter(),
		Interval:  interval,
		KeepInput: d.deps.KeepLogs,
		Tracer:    d.deps.Tracer,
		Stepped: func(ctx context.Context, s fold.Step) {
			d.metrics.batch(ctx, s, c.late()-late, of)
			late = c.late()
			if seen != nil {
				seen.Add(s.Input)
			}
		},
		Saved: func(ctx context.Context, took time.Duration) {
			d.metrics.checkpoint(ctx, took, of)
			if seen != nil {
				seen.Flush()
			}
		},
	})
}

// receipts tell of duplicates in a pipeline with a join: the sink cannot. Nil without one.
func (d *Dedup) receipts(p *controlv1.Pipeline, lane int, log *slog.Logger) *receipts.Steps {
	if p.GetJoin() == nil {
		return nil
	}
	return &receipts.Steps{Stage: stageName, Lane: lane, Log: log, Publish: func(r *eventv1.Receipt) error {
		return receipts.Publish(d.deps.NATS, p.GetId(), r)
	}}
}

func configOf(d *controlv1.Dedup) window.Config {
	return window.Config{
		Window:    d.GetWindow().AsDuration().Truncate(time.Millisecond),
		Latest:    d.GetKeep() == controlv1.Keep_LATEST,
		EventTime: d.GetTime() != "",
	}
}
