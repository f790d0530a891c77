package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/spec"
)

// follow looks for the events in the logs, the receipts and the dead letters, in the order of their way, so that what moves on
// meanwhile is seen at the latest behind where it was. Then it says what became of each, from what could be read until reading ended.
func (t *tracer) follow(ctx, reading context.Context) error {
	p := t.rec.GetSpec()
	for _, stage := range spec.Stages(p) {
		if stage == spec.StageSink {
			break
		}
		if err := t.log(reading, stage); err != nil {
			return err
		}
	}
	positions, err := t.service.positions(ctx, t.rec)
	if err != nil {
		return err
	}
	if err := t.receipts(reading); err != nil {
		return err
	}
	if err := t.letters(reading); err != nil {
		return err
	}
	statuses, err := t.service.registry.Statuses(ctx, p.GetId())
	if err != nil {
		return stored(ctx, err)
	}
	for _, e := range t.wanted {
		t.tellJoined(e)
		t.conclude(reading, e, positions, t.reading(e, statuses), statuses)
	}
	return nil
}

// each calls take for the messages of a stream that match, as far as there are some at the call and time remains.
func (t *tracer) each(ctx context.Context, stream, filter string, take func(jetstream.Msg, *jetstream.MsgMetadata) error) error {
	var messages, of uint64
	failed := func(err error) error {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return stored(ctx, fmt.Errorf("read %s: %w", stream, err))
		}
		t.late = true
		t.limit("%s of %s could not be read within %s (%d messages of %s were); allow more time (--timeout)", filter, stream, t.within, messages, some(of))
		return nil
	}
	consumer, err := t.service.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return failed(err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return failed(err)
	}
	if of = info.NumPending; of == 0 {
		return nil
	}
	iterator, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(256, 16<<20))
	if err != nil {
		return failed(err)
	}
	defer iterator.Stop()
	for {
		next, cancel := context.WithTimeout(ctx, readTimeout)
		msg, err := iterator.Next(jetstream.NextContext(next))
		cancel()
		if err != nil && ctx.Err() != nil {
			return failed(err)
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
		messages++
		if meta.NumPending == 0 || messages >= of {
			return nil
		}
		if err := t.progress(stream+", "+filter, messages, of); err != nil {
			return err
		}
	}
}

// some is a number of which 0 says that it is not known.
func some(n uint64) string {
	if n == 0 {
		return "an unknown number"
	}
	return strconv.FormatUint(n, 10)
}

// log looks through the log of a stage.
func (t *tracer) log(ctx context.Context, stage string) error {
	log := fencedlog.Log{Pipeline: t.rec.GetSpec().GetId(), Stage: stage}
	last := stage == spec.Upstream(t.rec.GetSpec(), spec.StageSink)
	var v batch.View
	for _, lane := range spec.EveryLane(t.rec) {
		if !t.mayBeIn(stage, lane) {
			continue
		}
		err := t.each(ctx, log.Stream(), t.filter(log, lane), func(msg jetstream.Msg, meta *jetstream.MsgMetadata) error {
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

// filter chooses the messages of a lane that one of the events may be in.
func (t *tracer) filter(log fencedlog.Log, lane int) string {
	if log.Stage != spec.StageIngest || len(t.wanted) > 1 {
		return log.LaneFilter(lane)
	}
	for e := range t.wanted {
		return log.Subject(lane, fencedlog.IngestWriter(t.branch.Source, e.partition))
	}
	return log.LaneFilter(lane)
}

// mayBeIn tells whether one of the events may be in a lane of a stage.
func (t *tracer) mayBeIn(stage string, lane int) bool {
	for _, e := range t.wanted {
		at := e.lane
		if stage == spec.StageJoin || stage == spec.StageDedup && t.branch.Relane {
			at = e.joinLane
		}
		if at < 0 || at == lane {
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
	e.first(stage, lane, sequence)
	switch {
	case stage == spec.StageIngest:
		e.ingested, e.lane = true, lane
		e.step(stage, lane, sequence, sequence, meta.Timestamp, "in the log, in a batch of %d events, offsets %d to %d", v.Rows, v.FirstOffset, v.LastOffset)
	case v.Selects(row):
		e.ingested, e.passed = true, true
		e.step(stage, lane, sequence, sequence, meta.Timestamp, "%s", t.passed())
	default:
		e.ingested, e.dropped = true, true
		e.step(stage, lane, sequence, sequence, meta.Timestamp, "dropped: a duplicate")
	}
	if stage == spec.Upstream(t.rec.GetSpec(), spec.StageJoin) && v.Selects(row) {
		e.before = sequence
	}
	if last && v.Selects(row) {
		e.last = append(e.last, hit{lane, sequence})
	}
}

// passed is what dedup says of an event that goes on.
func (t *tracer) passed() string {
	if t.branch.Dedup == nil {
		return "passed: the source has no dedup"
	}
	return "passed"
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

// letters looks for the events among the dead letters.
func (t *tracer) letters(ctx context.Context) error {
	log := fencedlog.Log{Pipeline: t.rec.GetSpec().GetId(), Stage: fencedlog.DeadLetters}
	for _, lane := range spec.EveryLane(t.rec) {
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
