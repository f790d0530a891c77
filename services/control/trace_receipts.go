package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/receipts"
	"sluice/libs/spec"
)

// inserted is what a receipt says of a message, before the lane's position does.
const inserted = "inserted"

// receipts looks for the events in what is kept of blocks, and with a join of the batches before it.
func (t *tracer) receipts(ctx context.Context) error {
	var oldest time.Time
	var read, of uint64
	var told error
	err := receipts.Each(ctx, t.service.js, t.rec.GetSpec().GetId(), -1, func(r *eventv1.Receipt, more uint64) bool {
		if oldest.IsZero() {
			oldest = time.UnixMilli(r.GetBeganMs())
		}
		for _, b := range r.GetBatches() {
			switch {
			case r.GetStage() != "":
				t.inStep(r, b)
			case len(b.GetOrigins()) > 0:
				t.inOrigins(r, b)
			default:
				for _, e := range t.wanted {
					if e.lane < 0 || e.lane == int(r.GetLane()) || b.GetJoined() {
						t.inReceipt(e, r, b)
					}
				}
			}
		}
		read++
		of = read + more
		told = t.progress("receipts", read, of)
		return told == nil
	})
	switch {
	case told != nil:
		return told
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		t.late = true
		t.limit("%d of %s receipts were read within %s; allow more time (--timeout)", read, some(of), t.within)
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil:
		t.late = true
		t.limit("not all receipts could be read: %v", err)
	}
	t.receiptsFrom = "there are no receipts of blocks"
	if !oldest.IsZero() {
		t.receiptsFrom = "receipts of blocks go back to " + oldest.UTC().Format(time.RFC3339)
	}
	return nil
}

// inStep notes what the first stage behind the ingest log says of its batches.
func (t *tracer) inStep(r *eventv1.Receipt, b *eventv1.BatchReceipt) {
	if b.GetSource() != t.branch.Source {
		return
	}
	lane := int(r.GetLane())
	for _, e := range t.wanted {
		if e.lane >= 0 && e.lane != lane {
			continue
		}
		fate := receipts.FateOf(b, t.topicID, e.partition, e.offset)
		if fate == receipts.Another {
			continue
		}
		e.ingested = true
		e.traceIn(b)
		at := time.UnixMilli(r.GetDoneMs())
		if e.first(spec.StageIngest, lane, b.GetSequence()) {
			e.step(spec.StageIngest, lane, b.GetSequence(), b.GetSequence(), time.Time{}, "was in the log, in a batch of %d events, offsets %d to %d", b.GetRows(), b.GetFirstOffset(), b.GetLastOffset())
		}
		if r.GetStage() != spec.StageDedup || e.passed || e.dropped {
			continue
		}
		switch fate {
		case receipts.Dropped:
			e.dropped = true
			e.step(spec.StageDedup, lane, 0, 0, at, "dropped: a duplicate")
		case receipts.Kept:
			e.passed = true
			e.step(spec.StageDedup, lane, 0, 0, at, "%s", t.passed())
		case receipts.Either:
			e.receipt = tooMany(b)
		}
	}
}

// tooMany says why a receipt does not tell.
func tooMany(b *eventv1.BatchReceipt) string {
	return fmt.Sprintf("it was in a batch of which %d of %d events were dropped as duplicates, too many to name", b.GetRows()-b.GetSelected(), b.GetRows())
}

// traceIn takes the trace of a batch that the event was in.
func (e *traced) traceIn(b *eventv1.BatchReceipt) {
	if len(b.GetTraceId()) > 0 && e.event.GetTraceId() == "" {
		e.event.TraceId = hexID(b.GetTraceId())
	}
}

// inOrigins notes the rows of a join that went into the table.
func (t *tracer) inOrigins(r *eventv1.Receipt, b *eventv1.BatchReceipt) {
	parts := map[*traced]*part{}
	for o := range receipts.Origins(b) {
		at := place{o.LeftPartition, o.LeftOffset}
		if t.branch.Side == spec.Right {
			at = place{o.RightPartition, o.RightOffset}
		}
		e := t.wanted[at]
		if e == nil {
			continue
		}
		if parts[e] == nil {
			parts[e] = &part{}
		}
		t.take(parts[e], e, o)
	}
	for e, p := range parts {
		id := ""
		if len(b.GetTraceId()) > 0 {
			id = hexID(b.GetTraceId())
		}
		told := len(e.joined.messages)
		e.meet(p, int(r.GetLane()), b.GetSequence(), time.Time{}, id)
		e.receipt, e.settled = "kept", true
		e.first(inserted, int(r.GetLane()), b.GetSequence())
		if told == len(e.joined.messages) && e.joined.more > 0 {
			continue
		}
		if e.first(spec.StageSink, int(r.GetLane()), r.GetFirstSequence()) {
			t.block(e, r)
		}
	}
}

// block tells of the insert.
func (t *tracer) block(e *traced, r *eventv1.Receipt) {
	took := time.Duration(r.GetDoneMs()-r.GetBeganMs()) * time.Millisecond
	text := fmt.Sprintf("inserted in a block of %d rows within %s, token %s", r.GetRows(), took, r.GetToken())
	if r.GetRefused() > 0 {
		text = fmt.Sprintf("in a block of %d rows, of which ClickHouse refused %d; %s", r.GetRows(), r.GetRefused(), took)
	}
	e.step(spec.StageSink, int(r.GetLane()), r.GetFirstSequence(), r.GetLastSequence(), time.UnixMilli(r.GetDoneMs()), "%s", text)
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
	e.traceIn(b)
	switch fate {
	case receipts.Dropped:
		if !e.dropped {
			e.step(spec.StageDedup, int(r.GetLane()), b.GetSequence(), b.GetSequence(), time.Time{}, "dropped: a duplicate")
		}
		e.dropped = true
		return
	case receipts.Either:
		e.receipt = tooMany(b)
	case receipts.Kept:
		e.receipt = "kept"
		e.first(inserted, int(r.GetLane()), b.GetSequence())
		e.settled = true // unless it is among the dead letters
		if !e.passed && !b.GetJoined() && t.branch.Dedup != nil {
			e.passed = true
			e.step(spec.StageDedup, int(r.GetLane()), b.GetSequence(), b.GetSequence(), time.Time{}, "passed")
		}
	}
	t.block(e, r)
}
