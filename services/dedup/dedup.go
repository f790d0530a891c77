// Package dedup is the stage that drops duplicates: it reads a pipeline's ingest log, clears the
// selection bit of each event whose key was seen within the window, and appends the batches, their
// columns as they were, to the dedup log.
//
// Guaranteed: each message of the ingest log leads to exactly one message of the dedup log, in each
// lane in the order of the ingest log, whatever is killed when. What a message says depends only on
// the ingest log before it. The state survives as a checkpoint in the pipeline's state bucket;
// after a crash it is restored, the inputs after it are replayed, and outputs that are in the log
// already are not appended again. What is a duplicate says package window.
//
// Not guaranteed: anything when JetStream loses what it had acknowledged, in a power loss say. A log
// that lost its tail is noticed when a lane starts; the lane then stands still and says so, rather
// than skipping events in silence.
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
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/lanes"
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
	deps    service.Deps
	metrics *metrics
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
	d := &Dedup{deps: deps, metrics: m}
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
	c, err := newCore(record, index, log)
	if err != nil {
		return err
	}
	stages := spec.Stages(p)
	var late uint64
	return fold.Run(ctx, c, fold.Options{
		JS: d.deps.JS, Log: log, Unit: u, Pipeline: p.GetId(), Stage: stageName, Lane: index, OfLanes: int(p.GetLanes()),
		Input:  fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Ingest},
		Output: fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Dedup}, Outputs: c.outputs(),
		Next:      stages[slices.Index(stages, stageName)+1],
		SealAfter: c.sealAfter(),
		Interval:  interval,
		Tracer:    d.deps.Tracer,
		Stepped: func(ctx context.Context, s fold.Step) {
			d.metrics.batch(ctx, s, c.late()-late)
			late = c.late()
		},
		Saved: d.metrics.checkpoint,
	})
}

func configOf(d *controlv1.Dedup) window.Config {
	return window.Config{
		Window:    d.GetWindow().AsDuration().Truncate(time.Millisecond),
		Latest:    d.GetKeep() == controlv1.Keep_LATEST,
		EventTime: d.GetTime() != "",
	}
}
