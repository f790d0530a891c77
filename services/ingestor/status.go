package ingestor

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/registry"
	"sluice/libs/spec"
)

const (
	publishInterval = 250 * time.Millisecond
	// keepAlive: the status bucket is in memory and is empty after a restart of NATS.
	keepAlive = 5 * time.Second
)

// board is what the ingestor says of its units, and its way into the status bucket.
type board struct {
	registry *registry.Registry
	instance string
	log      *slog.Logger

	mu    sync.Mutex
	units map[unitKey]*unit // guarded by mu
}

type unitKey struct {
	pipeline, source string
	partition        int32
}

// unit is the status of one partition while this instance owns it.
type unit struct {
	mu        sync.Mutex
	status    *stagev1.UnitStatus // guarded by mu
	loss      loss                // guarded by mu; shown as the last error while nothing else is wrong
	highest   int64               // guarded by mu; end of the partition as last seen
	changed   bool                // guarded by mu
	published time.Time           // owned by board.run
	told      bool                // guarded by mu; the log says that it waits
}

// own starts the status of a partition.
func (b *board) own(rec *controlv1.PipelineRecord, source string, partition int32) *unit {
	u := &unit{changed: true, status: &stagev1.UnitStatus{
		Pipeline: rec.GetSpec().GetId(), PipelineUid: rec.GetUid(), Stage: spec.StageIngest, Source: source, Unit: uint32(partition),
		Owner: b.instance, Condition: stagev1.UnitStatus_STARTING,
	}}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.units[unitKey{rec.GetSpec().GetId(), source, partition}] = u
	return u
}

// disown ends it; the last status stays in the bucket, without an owner.
func (b *board) disown(ctx context.Context, u *unit) {
	u.mu.Lock()
	u.status.Owner, u.status.Condition = "", stagev1.UnitStatus_STOPPED
	key := unitKey{u.status.GetPipeline(), u.status.GetSource(), int32(u.status.GetUnit())}
	u.mu.Unlock()
	b.mu.Lock()
	if b.units[key] == u {
		delete(b.units, key)
	}
	b.mu.Unlock()
	b.publish(ctx, u)
}

// run publishes what changes until ctx ends.
func (b *board) run(ctx context.Context) {
	ticker := time.NewTicker(publishInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, u := range b.list("") {
				u.mu.Lock()
				due := u.changed || now.Sub(u.published) >= keepAlive
				u.mu.Unlock()
				if due {
					u.published = now
					b.publish(ctx, u)
				}
			}
		}
	}
}

// tell writes one line when a partition begins to wait and one when it works again.
func (b *board) tell(u *unit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.status
	waits := s.GetCondition() == stagev1.UnitStatus_WAITING
	if waits == u.told || !waits && s.GetCondition() != stagev1.UnitStatus_RUNNING {
		return
	}
	u.told = waits
	log := b.log.With("pipeline", s.GetPipeline(), "partition", s.GetUnit())
	if s.GetSource() != "" {
		log = log.With("source", s.GetSource())
	}
	if waits {
		log.Warn("the partition waits", "for", s.GetLastError())
	} else {
		log.Info("the partition works again")
	}
}

func (b *board) publish(ctx context.Context, u *unit) {
	b.tell(u)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := b.registry.PutStatus(ctx, u.snapshot(true)); err != nil {
		b.log.Debug("publish status", "error", err)
		u.mu.Lock()
		u.changed = true
		u.mu.Unlock()
	}
}

// list returns the units of a pipeline, or all.
func (b *board) list(pipeline string) []*unit {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []*unit
	for key, u := range b.units {
		if pipeline == "" || key.pipeline == pipeline {
			list = append(list, u)
		}
	}
	return list
}

// snapshot copies the status; published says that it is on its way to the bucket.
func (u *unit) snapshot(published bool) *stagev1.UnitStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status.Lag = uint64(max(0, u.highest-int64(u.status.GetPosition())))
	u.status.UpdateTime = timestamppb.Now()
	if published {
		u.changed = false
	}
	return proto.CloneOf(u.status)
}

// settled makes a durable position known.
func (u *unit) settled(pos position) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status.Position = uint64(max(0, pos.next))
	u.status.TopicId = pos.id[:]
	u.status.Tally = pos.tally.Proto()
	u.status.LostOffsets, u.loss = pos.loss.offsets, pos.loss
	u.changed = true
}

func (u *unit) highWater(offset int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.highest = offset
}

// running says that nothing is in the way. What was lost is told for good.
func (u *unit) running() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.changed = u.changed || u.status.GetCondition() != stagev1.UnitStatus_RUNNING || u.status.GetLastError() != u.loss.text
	u.status.Condition, u.status.LastError = stagev1.UnitStatus_RUNNING, u.loss.text
	if u.loss.text != "" {
		u.status.LastErrorTime = timestamppb.New(time.UnixMilli(u.loss.ms))
	}
}

// waiting says what is waited for, or with nil that it is over.
func (u *unit) waiting(err error) {
	if err == nil {
		u.running()
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.status.Condition = stagev1.UnitStatus_WAITING
	u.status.LastError = registry.Reason(err.Error())
	u.status.LastErrorTime = timestamppb.Now()
	u.changed = true
}

// trouble shows why a topic of a pipeline is not read at all: on the units that nobody owns, or on the first
// one when there is none yet. What their last owners counted stays as it is.
func (b *board) trouble(ctx context.Context, rec *controlv1.PipelineRecord, source string, cause error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	statuses, err := b.registry.Statuses(ctx, rec.GetSpec().GetId())
	if err != nil {
		b.log.Debug("read statuses", "error", err)
		return
	}
	var idle []*stagev1.UnitStatus
	known := false
	for _, s := range statuses {
		if s.GetStage() == spec.StageIngest && s.GetSource() == source && s.GetPipelineUid() == rec.GetUid() {
			known = true
			if s.GetOwner() == "" || s.GetOwner() == b.instance {
				idle = append(idle, s)
			}
		}
	}
	if !known {
		idle = append(idle, &stagev1.UnitStatus{Pipeline: rec.GetSpec().GetId(), PipelineUid: rec.GetUid(), Stage: spec.StageIngest, Source: source})
	}
	for _, s := range idle {
		s.Condition, s.LastError = stagev1.UnitStatus_WAITING, cause.Error()
		s.LastErrorTime, s.UpdateTime = timestamppb.Now(), timestamppb.Now()
		if err := b.registry.PutStatus(ctx, s); err != nil {
			b.log.Debug("publish status", "error", err)
		}
	}
}
