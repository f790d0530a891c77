package receipts

import (
	"log/slog"
	"sync"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fold"
	"sluice/libs/telemetry"
)

const (
	// stepsBatches and stepsAge are when what a lane has read becomes a receipt.
	stepsBatches = 32
	stepsAge     = time.Second
)

// Steps makes receipts of what one lane of a stage reads from the ingest log. In a pipeline with a join the sink cannot tell of
// each event: a duplicate, or a row that waits, never gets there. Its methods may be called from any goroutine.
type Steps struct {
	Stage   string
	Lane    int
	Publish func(*eventv1.Receipt) error
	Log     *slog.Logger

	mu sync.Mutex
	r  *eventv1.Receipt // guarded by mu; nil: empty
}

// Add notes a step: which of the batch's rows it has dropped, and in which trace. What is replayed is noted again: the receipt may have died with
// who made it.
func (s *Steps) Add(in fold.Input) {
	if in.View == nil || in.View.Rows == 0 {
		return
	}
	var id []byte
	if sc := telemetry.Parse(in.View.Traceparent); sc.IsSampled() {
		traceID := sc.TraceID()
		id = traceID[:]
	}
	b := Describe(in.View, in.Sequence, id)
	now := time.Now().UnixMilli()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.r == nil {
		s.r = &eventv1.Receipt{Lane: uint32(s.Lane), Stage: s.Stage, FirstSequence: in.Sequence, BeganMs: now}
	}
	s.r.LastSequence, s.r.DoneMs = in.Sequence, now
	s.r.Batches = append(s.r.Batches, b)
	if len(s.r.Batches) == stepsBatches || now-s.r.BeganMs >= stepsAge.Milliseconds() {
		s.flush()
	}
}

// Flush publishes what there is. It is called before the batches may be purged from the log.
func (s *Steps) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flush()
}

func (s *Steps) flush() {
	if s.r == nil {
		return
	}
	if err := s.Publish(s.r); err != nil {
		s.Log.Debug("no receipt", "error", err)
	}
	s.r = nil
}
