// Package join is the stage that matches the rows of a pipeline's two sources: it reads the log before it, keeps the rows that wait for a
// counterpart, and appends the pairs, and the left rows that met nobody, to the join log. What matches, when, is the matter of
// package match, and of docs/joins.md for users.
//
// Guaranteed: what the join log says depends only on the log before it; each pair is in it once, whatever is killed when, also between two of
// the messages that one batch has led to. Rows that wait survive as a checkpoint in the pipeline's state bucket. Memory is bounded by
// join.memory for the rows of each lane, a few messages of some hundred KiB, and, once rows are on disk, some 60 MB for the store there.
//
// Not guaranteed: that the disk holds what does not fit into memory. When it fails, the lane starts again from its checkpoint.
package join

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/lanes"
	"sluice/libs/receipts"
	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/libs/spec"
	"sluice/services/join/internal/disk"
	"sluice/services/join/internal/state"
)

const stageName = "join"

// Join runs this instance's share of the lanes of all pipelines that have a join. It is a service.Service and a service.Stage.
type Join struct {
	*lanes.Manager
	registry lanes.Registry
	deps     service.Deps
	metrics  *metrics
	dir      string // for rows beyond the memory
}

var (
	_ service.Service = (*Join)(nil)
	_ service.Stage   = (*Join)(nil)
)

// Definition is the service for its binary, with the flag that names its directory.
func Definition() service.Definition {
	var dir string
	return service.Definition{
		Name: stageName,
		Flags: func(fs *pflag.FlagSet) {
			fs.StringVar(&dir, "data-dir", "", "directory for rows beyond join.memory, a cache emptied at the start; default: the system's for temporary files")
		},
		Build: func(ctx context.Context, deps service.Deps) (service.Service, error) { return BuildIn(ctx, deps, dir) },
	}
}

// BuildIn makes the service, once JetStream is there. dir is where rows beyond the memory go; "": the system's directory for temporary files.
func BuildIn(ctx context.Context, deps service.Deps, dir string) (service.Service, error) {
	reg, err := registry.Open(ctx, deps.JS)
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	return New(deps, reg, dir)
}

// New makes the stage; Run sets it to work. It empties what an earlier instance of the same name has left in dir.
func New(deps service.Deps, reg lanes.Registry, dir string) (*Join, error) {
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		dir = os.TempDir()
	}
	j := &Join{deps: deps, registry: reg, metrics: m, dir: filepath.Join(dir, "sluice-join-"+deps.Instance)}
	if err := os.RemoveAll(j.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("empty %s: %w", j.dir, err)
	}
	j.Manager = lanes.New(lanes.Config{
		Stage: stageName, Instance: deps.Instance, JS: deps.JS, Registry: reg, Log: deps.Log, Meter: deps.Meter,
		Wanted: wanted, Run: j.lane,
	})
	return j, nil
}

// wanted: a paused pipeline still settles what is in its logs.
func wanted(r *controlv1.PipelineRecord) bool {
	return slices.Contains(spec.Stages(r.GetSpec()), stageName) && r.GetDesired() != controlv1.DesiredState_DELETING
}

func (j *Join) lane(ctx context.Context, owned *lanes.Lane) error {
	return j.run(ctx, owned, owned.Pipeline, owned.Index, owned.Log, 0)
}

// run runs a lane; interval is between checkpoints, 0: the usual.
func (j *Join) run(ctx context.Context, u fold.Unit, record *controlv1.PipelineRecord, index int, log *slog.Logger, interval time.Duration) error {
	p := record.GetSpec()
	set, before, err := spec.LaneSetAndBefore(record, index)
	if err != nil {
		return err
	}
	c := newCore(record, config{
		lane: index, set: set, log: log, maxMessage: int(j.deps.NATS.MaxPayload()),
		disk: func() (state.Disk, error) { return disk.Open(j.dir) },
	})
	seen, labels := j.receipts(p, index, log), labelsOf(p.GetId())
	var letters *deadletters.Writer
	defer func() {
		if letters != nil {
			letters.Close()
		}
	}()
	return fold.Run(ctx, c, fold.Options{
		JS: j.deps.JS, Log: log, Unit: u, Pipeline: p.GetId(), Stage: stageName, Lane: index,
		Set: set, Before: before, Replaced: set != spec.CurrentLanes(record), Live: spec.LiveLanes(record), Same: lanes.Same(j.registry, record),
		Generation: record.GetGeneration(), NotBehind: lanes.NotBehind(j.registry, record),
		Input:  fencedlog.Log{Pipeline: p.GetId(), Stage: spec.Upstream(p, stageName)},
		Output: fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Join}, Next: "sink",
		SealAfter: c.sealAfter(),
		Interval:  interval,
		KeepInput: j.deps.KeepLogs,
		Letters: func(ctx context.Context) (fold.Letters, string, error) {
			kv, err := j.deps.JS.KeyValue(ctx, checkpoint.Bucket(p.GetId()))
			if err != nil {
				return nil, "", fmt.Errorf("open the state bucket: %w", err)
			}
			w, last, err := deadletters.Open(ctx, j.deps.JS, p.GetId(), stageName+"-"+strconv.Itoa(index), deadletters.Options{
				Notes: kv,
				Stage: stageName, Lane: index, MaxPayload: j.deps.NATS.MaxPayload(), Sources: sources(p),
				ClientID: "sluice-join-" + p.GetId(), Wait: func(err error) { waiting(u, err) },
			})
			letters = w
			return w, last, err
		},
		Tracer: j.deps.Tracer,
		Stepped: func(ctx context.Context, s fold.Step) {
			j.metrics.step(ctx, s, labels)
			if seen != nil {
				seen.Add(s.Input)
			}
		},
		Saved: func(ctx context.Context, took time.Duration) {
			j.metrics.checkpoint(ctx, took, labels)
			if seen != nil {
				seen.Flush()
			}
		},
	})
}

// receipts tell of the rows that wait. Nil where dedup comes first and does.
func (j *Join) receipts(p *controlv1.Pipeline, lane int, log *slog.Logger) *receipts.Steps {
	if spec.Upstream(p, stageName) != spec.StageIngest {
		return nil
	}
	return &receipts.Steps{Stage: stageName, Lane: lane, Log: log, Publish: func(r *eventv1.Receipt) error {
		return receipts.Publish(j.deps.NATS, p.GetId(), r)
	}}
}

func sources(p *controlv1.Pipeline) map[string]*controlv1.KafkaSource {
	out := map[string]*controlv1.KafkaSource{}
	for _, b := range spec.Branches(p) {
		out[b.Source] = b.Spec.GetKafka()
	}
	return out
}

// waiting shows what dead letters wait for; nil says that they are through.
func waiting(u fold.Unit, err error) {
	if err == nil {
		u.Running()
		return
	}
	u.Report(func(s *stagev1.UnitStatus) {
		s.Condition, s.LastError, s.LastErrorTime = stagev1.UnitStatus_WAITING, err.Error(), timestamppb.Now()
	})
}
