package control

import (
	"bytes"
	"context"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/spec"
)

// reading is the status of the event's partition; nil when there is none.
func (t *tracer) reading(e *traced, statuses []*stagev1.UnitStatus) *stagev1.UnitStatus {
	for _, s := range statuses {
		if s.GetStage() == spec.StageIngest && int32(s.GetUnit()) == e.partition && s.GetSource() == t.branch.Source && s.GetPipelineUid() == t.rec.GetUid() {
			return s
		}
	}
	return nil
}

// conclude says what became of an event.
func (t *tracer) conclude(ctx context.Context, e *traced, sink positions, reading *stagev1.UnitStatus, statuses []*stagev1.UnitStatus) {
	out := e.event
	if out.TraceId == "" {
		out.TraceId = e.own
	}
	start, pinned := t.start(e.partition)
	waiting := 0
	for _, h := range e.last {
		if e.noted[note{inserted, h.lane, h.sequence}] {
			continue
		}
		p := sink.lanes[h.lane]
		if h.sequence > p.GetCoveredSequence() {
			waiting++
			pending := p.GetPending()
			switch {
			case h.sequence >= pending.GetFirstSequence() && h.sequence <= pending.GetLastSequence():
				e.step(spec.StageSink, h.lane, pending.GetFirstSequence(), pending.GetLastSequence(), time.Time{}, "being inserted in a block of %d rows", pending.GetRows())
			default:
				e.step(spec.StageSink, h.lane, 0, 0, time.Time{}, "waits for its block; the lane has settled up to message %d", p.GetCoveredSequence())
			}
		} else if e.receipt == "" {
			e.settled = true
			e.step(spec.StageSink, h.lane, 0, 0, time.Time{}, "settled: the lane has come to message %d", p.GetCoveredSequence())
		}
	}
	switch {
	case e.refused != "":
		out.Outcome = controlv1.TracedEvent_DEAD_LETTER
	case e.dropped && (!e.passed || t.rec.GetSpec().GetJoin() == nil): // with a join: not what was dropped when a log was healed
		out.Outcome = controlv1.TracedEvent_DUPLICATE
	case waiting > 0:
		out.Outcome = controlv1.TracedEvent_PENDING
	case e.settled:
		out.Outcome = controlv1.TracedEvent_WRITTEN
	case pinned && e.offset < start:
		out.Outcome = controlv1.TracedEvent_NOT_READ
		e.step(spec.StageIngest, -1, 0, 0, time.Time{}, "not read: the pipeline begins at offset %d", start)
	case reading != nil && int64(reading.GetPosition()) <= e.offset && !e.ingested && !t.late: // a report may be older than the logs, which were read before
		out.Outcome = controlv1.TracedEvent_PENDING
		e.step(spec.StageIngest, -1, 0, 0, time.Time{}, "not settled yet: the partition has come to offset %d", reading.GetPosition())
	case out.Outcome == controlv1.TracedEvent_TOMBSTONE:
	case e.ingested && !e.passed && t.rec.GetSpec().GetJoin() == nil:
		out.Outcome = controlv1.TracedEvent_PENDING
	case e.ingested && t.rec.GetSpec().GetJoin() != nil && (e.receipt == "" || e.receipt == "kept"):
		t.unmatched(ctx, e, statuses)
	default:
		out.Outcome = controlv1.TracedEvent_UNKNOWN
		t.unknown(e)
	}
}

// unmatched says what becomes of an event that is in no row of the join.
func (t *tracer) unmatched(ctx context.Context, e *traced, statuses []*stagev1.UnitStatus) {
	text, waits := t.waits(ctx, e, statuses)
	switch {
	case waits:
		e.event.Outcome = controlv1.TracedEvent_PENDING
		e.step(spec.StageJoin, e.joinLane, 0, 0, time.Time{}, "%s", text)
	case text != "":
		e.event.Outcome = controlv1.TracedEvent_UNMATCHED
		e.step(spec.StageJoin, e.joinLane, 0, 0, time.Time{}, "%s", text)
	case t.late || t.branch.Side == spec.Left && t.rec.GetSpec().GetJoin().GetType() == controlv1.Join_LEFT:
		// It has come out, or is about to: it was not seen where it has gone.
		e.event.Outcome = controlv1.TracedEvent_UNKNOWN
		t.unknown(e)
	default:
		e.event.Outcome = controlv1.TracedEvent_UNMATCHED
		e.step(spec.StageJoin, e.joinLane, 0, 0, time.Time{}, "its time is up, and no row of it is known: it met nobody")
	}
}

// unknown says why.
func (t *tracer) unknown(e *traced) {
	switch {
	case e.receipt != "" && e.receipt != "kept":
		t.limit("%d:%d: %s", e.partition, e.offset, e.receipt)
	case t.late:
		t.limit("%d:%d: what became of it was not found in what could be read in time", e.partition, e.offset)
	default:
		t.limit("%d:%d: it was read, but the logs were purged since, and there is no receipt of its block", e.partition, e.offset)
		t.limit("%s", t.receiptsFrom)
	}
}

// start is where the pipeline begins in a partition.
func (t *tracer) start(partition int32) (int64, bool) {
	start := t.rec.GetStartOffsets()
	if t.branch.Source != "" {
		start = t.rec.GetSourceStartOffsets()[t.branch.Source]
	}
	if !bytes.Equal(start.GetTopicId(), t.topicID) {
		return 0, false
	}
	offset, ok := start.GetOffsets()[partition]
	return offset, ok
}
