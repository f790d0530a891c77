package lanes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/registry"
)

// Lane is a lane that this instance owns, as its Func sees it.
type Lane struct {
	// Pipeline is the record that the lane runs by. It is shared: do not change it.
	Pipeline *controlv1.PipelineRecord
	// Index is the number of the lane, from 0.
	Index int
	// Instance is the owner.
	Instance string
	// Log carries stage, pipeline and lane.
	Log *slog.Logger

	checkpoints chan chan<- error

	mu     sync.Mutex
	status *stagev1.UnitStatus // guarded by mu
	dirty  bool                // guarded by mu: not published since it changed
	span   trace.SpanContext   // guarded by mu: what it works in

	pubMu     sync.Mutex // held while publishing, so that nothing is published after close
	published time.Time  // guarded by pubMu
	closed    bool       // guarded by pubMu
	told      string     // guarded by pubMu; what the log says that the lane waits for, "" when it works
}

func newLane(cfg Config, log *slog.Logger, id laneID, record *controlv1.PipelineRecord) *Lane {
	return &Lane{
		Pipeline:    record,
		Index:       id.index,
		Instance:    cfg.Instance,
		Log:         log.With("pipeline", id.pipeline, "lane", id.index),
		checkpoints: make(chan chan<- error),
		dirty:       true,
		status: &stagev1.UnitStatus{
			Pipeline:    id.pipeline,
			PipelineUid: record.GetUid(),
			Stage:       cfg.Stage,
			Unit:        uint32(id.index),
			Owner:       cfg.Instance,
			Condition:   stagev1.UnitStatus_STARTING,
		},
	}
}

// Report changes the lane's status. Who the lane is and who owns it stay as they are. It is published
// four times a second at most, so Report may be called for every batch. A report that moves the
// position or the tally says that the lane works: it becomes RUNNING unless change says otherwise. While it is RUNNING the last
// error is empty unless change sets it, each time.
func (l *Lane) Report(change func(*stagev1.UnitStatus)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	who := &stagev1.UnitStatus{Pipeline: s.Pipeline, PipelineUid: s.PipelineUid, Stage: s.Stage, Unit: s.Unit, Owner: s.Owner}
	condition, position, tally := s.Condition, s.Position, proto.CloneOf(s.Tally)
	if condition == stagev1.UnitStatus_RUNNING {
		s.LastError, s.LastErrorTime = "", nil
	}
	lastError := s.LastError
	change(s)
	s.LastError = registry.Reason(s.LastError)
	s.Pipeline, s.PipelineUid, s.Stage, s.Unit, s.Owner = who.Pipeline, who.PipelineUid, who.Stage, who.Unit, who.Owner
	if s.Condition == condition && (s.Position != position || !proto.Equal(s.Tally, tally)) {
		s.Condition = stagev1.UnitStatus_RUNNING
	}
	if s.Condition == stagev1.UnitStatus_RUNNING && s.LastError == lastError {
		s.LastError, s.LastErrorTime = "", nil // of what it waited for
	}
	l.dirty = true
}

// Running says that the lane has begun, or works again after Wait, also when there is nothing to do.
func (l *Lane) Running() {
	l.mu.Lock()
	running := l.status.Condition == stagev1.UnitStatus_RUNNING
	l.mu.Unlock()
	if !running {
		l.Report(func(s *stagev1.UnitStatus) { s.Condition = stagev1.UnitStatus_RUNNING })
	}
}

// Wait shows err as what the lane waits for, and waits for d. It returns nil after d, else the end of
// ctx. The lane stays WAITING until Running or a Report of progress. A checkpoint that is asked for
// meanwhile is answered with err.
func (l *Lane) Wait(ctx context.Context, err error, d time.Duration) error {
	l.Report(func(s *stagev1.UnitStatus) {
		s.Condition = stagev1.UnitStatus_WAITING
		s.LastError = err.Error()
		s.LastErrorTime = timestamppb.Now()
	})
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
			return nil
		case reply := <-l.checkpoints:
			reply <- fmt.Errorf("the lane waits: %w", err)
		}
	}
}

// Checkpoints delivers the wishes to make the lane's position durable now. Func answers each with
// one value: nil once it is done. The channel that is received never blocks the answer.
func (l *Lane) Checkpoints() <-chan chan<- error { return l.checkpoints }

// Working says in whose span the lane works from now on: the line that says what it waits for names the trace.
func (l *Lane) Working(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.span = trace.SpanContextFromContext(ctx)
}

// idle holds a lane whose Func has nothing to do by this record.
func (l *Lane) idle(ctx context.Context) {
	l.Running()
	for {
		select {
		case <-ctx.Done():
			return
		case reply := <-l.checkpoints:
			reply <- nil
		}
	}
}

var errEnded = errors.New("the lane has ended")

// restore takes over the numbers that the lane's last owner published, so that counts do not fall
// back to zero until Func has loaded its own. It is about the display only: errors do not matter.
func (l *Lane) restore(ctx context.Context, reg Registry, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	all, err := reg.Statuses(ctx, l.status.GetPipeline())
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.status
	for _, old := range all {
		if old.GetStage() == s.GetStage() && old.GetUnit() == s.GetUnit() && old.GetPipelineUid() == s.GetPipelineUid() {
			s.Position, s.Lag, s.Tally = old.Position, old.Lag, old.Tally
			s.StateKeys, s.StateBytes, s.HealedRows = old.StateKeys, old.StateBytes, old.HealedRows
		}
	}
}

func (l *Lane) snapshot() *stagev1.UnitStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return proto.CloneOf(l.status)
}

// publish writes the status when it has changed or is due again.
func (l *Lane) publish(ctx context.Context, reg Registry) error {
	l.pubMu.Lock()
	defer l.pubMu.Unlock()
	if l.closed {
		return nil
	}
	l.mu.Lock()
	due := l.dirty || time.Since(l.published) >= keepAlive
	l.dirty = false
	l.mu.Unlock()
	if !due {
		return nil
	}
	s := l.snapshot()
	l.tell(s)
	s.UpdateTime = timestamppb.Now()
	if err := reg.PutStatus(ctx, s); err != nil {
		l.mu.Lock()
		l.dirty = true
		l.mu.Unlock()
		return err
	}
	l.published = time.Now()
	return nil
}

// tell writes one line when the lane begins to wait and one when it works again. It is called four times a second at most, so
// that what passes in a moment leaves no line. Called with pubMu held.
func (l *Lane) tell(s *stagev1.UnitStatus) {
	l.mu.Lock()
	ctx := trace.ContextWithSpanContext(context.Background(), l.span)
	l.mu.Unlock()
	switch s.GetCondition() {
	case stagev1.UnitStatus_WAITING:
		if l.told == "" {
			l.told = s.GetLastError()
			l.Log.WarnContext(ctx, "the lane waits", "for", l.told)
		}
	case stagev1.UnitStatus_RUNNING:
		if l.told != "" {
			l.told = ""
			l.Log.InfoContext(ctx, "the lane works again")
		}
	}
}

// close ends publishing. final: says as the last thing that nobody owns the lane.
func (l *Lane) close(final bool, reg Registry, timeout time.Duration) {
	l.pubMu.Lock()
	defer l.pubMu.Unlock()
	l.closed = true
	if !final {
		return
	}
	s := l.snapshot()
	s.Owner, s.Condition, s.UpdateTime = "", stagev1.UnitStatus_STOPPED, timestamppb.Now()
	s.LastError, s.LastErrorTime = "", nil
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := reg.PutStatus(ctx, s); err != nil {
		l.Log.Debug("last status not published", "error", err)
	}
}

func sortUnits(units []*stagev1.UnitStatus) {
	slices.SortFunc(units, func(a, b *stagev1.UnitStatus) int {
		return cmp.Or(cmp.Compare(a.Pipeline, b.Pipeline), cmp.Compare(a.Unit, b.Unit))
	})
}
