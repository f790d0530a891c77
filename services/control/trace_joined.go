package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/spec"
)

const (
	// maxMessages bounds the messages of a join that are told of one event, maxMatched the records that it met in each of them.
	maxMessages = 20
	maxMatched  = 5
)

// joined is what is known of the rows that an event has a part in.
type joined struct {
	messages []*controlv1.TraceStep
	rows     uint64 // in all messages, told or not
	more     int    // messages that are not told
}

// part is an event's part in one message of the join's log.
type part struct {
	rows    uint64
	matched []*controlv1.TraceMatch
}

// take notes one row, if the event is in it.
func (t *tracer) take(p *part, e *traced, o batch.Origin) {
	other := &controlv1.TraceMatch{}
	switch {
	case t.branch.Side == spec.Left && o.LeftPartition == e.partition && o.LeftOffset == e.offset:
		other.Source, other.Partition, other.Offset = t.rec.GetSpec().GetJoin().GetRight(), o.RightPartition, o.RightOffset
	case t.branch.Side == spec.Right && o.RightPartition == e.partition && o.RightOffset == e.offset:
		other.Source, other.Partition, other.Offset = t.rec.GetSpec().GetJoin().GetLeft(), o.LeftPartition, o.LeftOffset
	default:
		return
	}
	p.rows++
	if o.RightPartition != batch.NoRight && len(p.matched) < maxMatched {
		p.matched = append(p.matched, other)
	}
}

// inJoined notes the rows of a join that an event has a part in.
func (t *tracer) inJoined(e *traced, lane int, v *batch.View, meta *jetstream.MsgMetadata) {
	var p part
	for row := range v.Rows {
		if v.Selects(row) {
			t.take(&p, e, v.Origin(row))
		}
	}
	if p.rows == 0 {
		return
	}
	sequence := meta.Sequence.Stream
	e.last = append(e.last, hit{lane, sequence})
	e.meet(&p, lane, sequence, meta.Timestamp, traceIDOf(v.Traceparent))
}

// meet notes that an event is in rows that were put out.
func (e *traced) meet(p *part, lane int, sequence uint64, at time.Time, traceID string) {
	e.ingested = true
	if !e.first(spec.StageJoin, lane, sequence) {
		return
	}
	e.joined.rows += p.rows
	if len(e.joined.messages) == maxMessages {
		e.joined.more++
		return
	}
	what := "put out alone: it met nobody"
	if len(p.matched) > 0 {
		what = "matched with"
		for i, m := range p.matched {
			what += fmt.Sprintf("%s %s %d:%d", strings.Repeat(",", min(i, 1)), m.GetSource(), m.GetPartition(), m.GetOffset())
		}
		if more := int(p.rows) - len(p.matched); more > 0 {
			what += fmt.Sprintf(" and %d more", more)
		}
	}
	e.step(spec.StageJoin, lane, sequence, sequence, at, "%s", what)
	step := e.event.Steps[len(e.event.Steps)-1]
	step.Rows, step.Matched, step.TraceId = p.rows, p.matched, traceID
	e.joined.messages = append(e.joined.messages, step)
}

// tellJoined sums up what the join has put out, once all is read.
func (t *tracer) tellJoined(e *traced) {
	slices.SortFunc(e.joined.messages, func(a, b *controlv1.TraceStep) int {
		return int(int64(a.GetFirstSequence()) - int64(b.GetFirstSequence()))
	})
	for _, step := range e.joined.messages {
		if step.GetTraceId() == e.event.GetTraceId() {
			step.TraceId = ""
		}
	}
	if e.joined.more > 0 {
		t.limit("%d:%d: it is in %d rows; %d more messages of the join are not listed", e.partition, e.offset, e.joined.rows, e.joined.more)
	}
}

// waits says what a join that has put nothing out for an event is about to do with it; false when its time is up, with what is known of why it is gone.
func (t *tracer) waits(ctx context.Context, e *traced, statuses []*stagev1.UnitStatus) (string, bool) {
	join, lane := t.rec.GetSpec().GetJoin(), t.lane(e, statuses)
	if lane.GetPosition() < e.before {
		return fmt.Sprintf("not taken in yet: the lane has come to message %d, and it is in message %d", lane.GetPosition(), e.before), true
	}
	if e.read && e.joinKey == [2]uint64{} {
		if t.branch.Side == spec.Left && join.GetType() == controlv1.Join_LEFT {
			return "", false // it comes out alone as soon as it is taken in
		}
		return "it has no join key, is equal to nothing, and was dropped", false
	}
	reach := join.GetWindow().AsDuration()
	if join.GetKind() == controlv1.Join_LOOKUP {
		if t.branch.Side == spec.Right {
			return t.remembered(ctx, e, lane)
		}
		reach = join.GetWait().AsDuration()
	}
	until := time.UnixMilli(e.eventMS).Add(reach)
	text := fmt.Sprintf("no row of it yet: it waits for a counterpart until event time has passed %s", until.UTC().Format(timeFormat))
	if lane.LaneWatermarkMs != nil {
		at := time.UnixMilli(lane.GetLaneWatermarkMs())
		if at.After(until) {
			return "", false
		}
		text += ", and it has come to " + at.UTC().Format(timeFormat)
	}
	return text, true
}

// lane is the status of the join's lane in which an event meets its counterparts; nil when there is none.
func (t *tracer) lane(e *traced, statuses []*stagev1.UnitStatus) *stagev1.UnitStatus {
	for _, s := range statuses {
		if s.GetStage() == spec.StageJoin && int(s.GetUnit()) == e.joinLane && s.GetPipelineUid() == t.rec.GetUid() {
			return s
		}
	}
	return nil
}

const timeFormat = "2006-01-02T15:04:05.000Z"
