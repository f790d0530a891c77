package control

import (
	"context"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/receipts"
	"sluice/libs/spec"
)

// receipts looks for the events in what is kept of blocks.
func (t *tracer) receipts(ctx context.Context) error {
	var oldest time.Time
	err := receipts.Each(ctx, t.service.js, t.rec.GetSpec().GetId(), -1, func(r *eventv1.Receipt) bool {
		if oldest.IsZero() {
			oldest = time.UnixMilli(r.GetBeganMs())
		}
		for _, b := range r.GetBatches() {
			for _, e := range t.wanted {
				if e.lane < 0 || e.lane == int(r.GetLane()) || b.GetJoined() {
					t.inReceipt(e, r, b)
				}
			}
		}
		return true
	})
	if err != nil {
		t.limit("not all receipts could be read: %v", err)
	}
	t.receiptsFrom = "there are no receipts of blocks"
	if !oldest.IsZero() {
		t.receiptsFrom = "receipts of blocks go back to " + oldest.UTC().Format(time.RFC3339)
	}
	return nil
}

func (t *tracer) inReceipt(e *traced, r *eventv1.Receipt, b *eventv1.BatchReceipt) {
	fate := receipts.FateOf(b, t.topicID, e.partition, e.offset)
	for _, h := range e.last {
		if h.lane == int(r.GetLane()) && h.sequence == b.GetSequence() {
			fate = receipts.Kept
		}
	}
	if fate == receipts.Another {
		return
	}
	if len(b.GetTraceId()) > 0 && e.event.GetTraceId() == "" {
		e.event.TraceId = hexID(b.GetTraceId())
	}
	done := time.UnixMilli(r.GetDoneMs())
	block := func(format string, args ...any) {
		e.step(spec.StageSink, int(r.GetLane()), r.GetFirstSequence(), r.GetLastSequence(), done, format, args...)
	}
	took := time.Duration(r.GetDoneMs()-r.GetBeganMs()) * time.Millisecond
	switch fate {
	case receipts.Dropped:
		if !e.dropped {
			e.step(spec.StageDedup, int(r.GetLane()), b.GetSequence(), b.GetSequence(), time.Time{}, "dropped: a duplicate")
		}
		e.dropped = true
		return
	case receipts.Either:
		e.receipt = fmt.Sprintf("it was in a batch of which %d of %d events were dropped as duplicates, too many to name", b.GetRows()-b.GetSelected(), b.GetRows())
	case receipts.Kept:
		e.receipt = "kept"
		e.settled = true // unless it is among the dead letters
		if !e.passed && !b.GetJoined() && t.branch.Dedup != nil {
			e.passed = true
			e.step(spec.StageDedup, int(r.GetLane()), b.GetSequence(), b.GetSequence(), time.Time{}, "passed")
		}
	}
	if r.GetRefused() > 0 {
		block("in a block of %d rows, of which ClickHouse refused %d; %s", r.GetRows(), r.GetRefused(), took)
	} else {
		block("inserted in a block of %d rows within %s, token %s", r.GetRows(), took, r.GetToken())
	}
}
