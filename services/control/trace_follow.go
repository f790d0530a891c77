package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/spec"
)

// follow looks for the events in the logs, the receipts and the dead letters, in the order of their way, so that what moves on
// meanwhile is seen at the latest behind where it was. Then it says what became of each.
func (t *tracer) follow(ctx context.Context) error {
	p := t.rec.GetSpec()
	for _, stage := range spec.Stages(p) {
		if stage == spec.StageSink {
			break
		}
		if err := t.log(ctx, stage); err != nil {
			return err
		}
	}
	positions, err := t.service.positions(ctx, p)
	if err != nil {
		return err
	}
	if err := t.receipts(ctx); err != nil {
		return err
	}
	if err := t.letters(ctx); err != nil {
		return err
	}
	statuses, err := t.service.registry.Statuses(ctx, p.GetId())
	if err != nil {
		return stored(ctx, err)
	}
	for _, e := range t.wanted {
		t.conclude(e, positions, t.reading(e, statuses))
	}
	return nil
}

// each calls take for the messages of a stream that match, as far as there are some at the call.
func (t *tracer) each(ctx context.Context, stream, filter string, take func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	consumer, err := t.service.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return stored(ctx, fmt.Errorf("read %s: %w", stream, err))
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return stored(ctx, fmt.Errorf("read %s: %w", stream, err))
	}
	if info.NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(256, 16<<20))
	if err != nil {
		return stored(ctx, fmt.Errorf("read %s: %w", stream, err))
	}
	defer messages.Stop()
	for {
		next, cancel := context.WithTimeout(ctx, readTimeout)
		msg, err := messages.Next(jetstream.NextContext(next))
		cancel()
		if err != nil && ctx.Err() != nil {
			t.limit("%s could not be read to its end within %s", stream, traceTime)
			return context.Cause(ctx)
		}
		if err != nil {
			return nil // what was there was purged in the meantime
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if err := take(msg, meta); err != nil {
			return err
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// log looks through the log of a stage.
func (t *tracer) log(ctx context.Context, stage string) error {
	log := fencedlog.Log{Pipeline: t.rec.GetSpec().GetId(), Stage: stage}
	last := stage == spec.Upstream(t.rec.GetSpec(), spec.StageSink)
	var v batch.View
	for lane := range int(t.rec.GetSpec().GetLanes()) {
		if !t.mayBeIn(stage, lane) {
			continue
		}
		err := t.each(ctx, log.Stream(), log.LaneFilter(lane), func(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
			if err := v.Parse(msg.Data()); err != nil {
				return fmt.Errorf("read sequence %d of %s: %w", meta.Sequence.Stream, log.Stream(), err)
			}
			for _, e := range t.wanted {
				t.inBatch(e, stage, lane, last, &v, meta)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mayBeIn tells whether one of the events may be in a lane of a stage: with a join, dedup changes lanes.
func (t *tracer) mayBeIn(stage string, lane int) bool {
	if stage != spec.StageIngest && t.rec.GetSpec().GetJoin() != nil {
		return true
	}
	for _, e := range t.wanted {
		if e.lane < 0 || e.lane == lane {
			return true
		}
	}
	return false
}

// inBatch notes what a batch tells of an event, if it is in it.
func (t *tracer) inBatch(e *traced, stage string, lane int, last bool, v *batch.View, meta *jetstream.MsgMetadata) {
	if len(v.Origins) > 0 {
		t.inJoined(e, lane, v, meta)
		return
	}
	row, ok := t.rowOf(e, v)
	if !ok {
		return
	}
	if id := traceIDOf(v.Traceparent); id != "" {
		e.event.TraceId = id
	}
	sequence := meta.Sequence.Stream
	switch {
	case stage == spec.StageIngest:
		e.ingested, e.lane = true, lane
		e.step(stage, lane, sequence, sequence, meta.Timestamp, "in the log, in a batch of %d events, offsets %d to %d", v.Rows, v.FirstOffset, v.LastOffset)
	case v.Selects(row):
		e.passed = true
		e.step(stage, lane, sequence, sequence, meta.Timestamp, "passed")
	default:
		e.dropped = true
		e.step(stage, lane, sequence, sequence, meta.Timestamp, "dropped: a duplicate")
	}
	if last && v.Selects(row) {
		e.last = append(e.last, hit{lane, sequence})
	}
}

// rowOf is the row of an event in a batch.
func (t *tracer) rowOf(e *traced, v *batch.View) (row int, ok bool) {
	if v.Partition != e.partition || e.offset < v.FirstOffset || e.offset > v.LastOffset || string(v.Source) != t.branch.Source ||
		len(t.topicID) > 0 && !bytes.Equal(v.TopicID, t.topicID) {
		return 0, false
	}
	for row := range v.Rows {
		if v.Offset(row) == e.offset {
			return row, true
		}
	}
	return 0, false
}

// inJoined notes the rows of a join that an event has a part in.
func (t *tracer) inJoined(e *traced, lane int, v *batch.View, meta *jetstream.MsgMetadata) {
	found := 0
	for row := range v.Rows {
		o := v.Origin(row)
		left := t.branch.Side == spec.Left && o.LeftPartition == e.partition && o.LeftOffset == e.offset
		right := t.branch.Side == spec.Right && o.RightPartition == e.partition && o.RightOffset == e.offset
		if (left || right) && v.Selects(row) {
			found++
		}
	}
	if found == 0 {
		return
	}
	sequence := meta.Sequence.Stream
	e.step(spec.StageJoin, lane, sequence, sequence, meta.Timestamp, "part of %d rows", found)
	e.last = append(e.last, hit{lane, sequence})
	if id := traceIDOf(v.Traceparent); id != "" && e.event.TraceId == "" {
		e.event.TraceId = id
	}
}

// letters looks for the events among the dead letters.
func (t *tracer) letters(ctx context.Context) error {
	log := fencedlog.Log{Pipeline: t.rec.GetSpec().GetId(), Stage: fencedlog.DeadLetters}
	for lane := range int(t.rec.GetSpec().GetLanes()) {
		err := t.each(ctx, log.Stream(), log.LaneFilter(lane), func(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
			var list eventv1.DeadLetterBatch
			if err := proto.Unmarshal(msg.Data(), &list); err != nil {
				return fmt.Errorf("read sequence %d of %s: %w", meta.Sequence.Stream, log.Stream(), err)
			}
			for _, l := range list.GetLetters() {
				e := t.wanted[place{l.GetPartition(), l.GetOffset()}]
				if e == nil || l.GetTopic() != e.event.GetTopic() {
					continue
				}
				e.refused = l.GetReason()
				e.step(l.GetStage(), -1, meta.Sequence.Stream, meta.Sequence.Stream, time.UnixMilli(l.GetRefusedMs()), "dead letter: %s %s", l.GetField(), l.GetReason())
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
