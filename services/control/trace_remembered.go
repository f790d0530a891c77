package control

import (
	"context"
	"fmt"
	"time"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/kafka"
	"sluice/libs/rows"
)

// successor is a right row of a LOOKUP that takes the place of another of its key.
type successor struct {
	place
	eventMS int64
}

// remembered says whether a right row of a LOOKUP that no left row has met is still there for those to come. It leaves once event time has passed
// a newer one of its key, or, with a window, its own time by window and wait.
func (t *tracer) remembered(ctx context.Context, e *traced, lane *stagev1.UnitStatus) (string, bool) {
	const there = "it is there for left rows to come, until a newer one of its key takes its place"
	if !e.read || lane == nil || lane.LaneWatermarkMs == nil {
		return there, true
	}
	join, at := t.rec.GetSpec().GetJoin(), lane.GetLaneWatermarkMs()
	come := ", and it has come to " + clock(at)
	if join.GetWindow() != nil {
		if until := e.eventMS + (join.GetWindow().AsDuration() + join.GetWait().AsDuration()).Milliseconds(); until < at {
			return "it was remembered until event time had passed " + clock(until) + come + ": it has expired, and no row of it is known", false
		}
	}
	if t.branch.Dedup != nil {
		return there, true // a newer one may have been dropped as a duplicate
	}
	next, all := t.successor(ctx, e, at)
	name := ""
	if next != nil {
		name = fmt.Sprintf("%s %d:%d, of %s", t.branch.Source, next.partition, next.offset, clock(next.eventMS))
	}
	switch {
	case next != nil && next.eventMS < at:
		return "a newer one of its key has taken its place, " + name + come + ": no row of it is known", false
	case next != nil:
		return "it is there for left rows to come, until event time has passed the newer one of its key, " + name + come, true
	case !all:
		return there + "; whether one has was not read in time", true
	}
	return there, true
}

// successor looks for the newer row of an event's key: among the events that are traced, then in Kafka, from when the event came, less what may be
// out of order. One that event time has passed is preferred. all is false when Kafka could not be read to its end.
func (t *tracer) successor(ctx context.Context, e *traced, watermark int64) (next *successor, all bool) {
	consider := func(s successor, key [2]uint64) (done bool) {
		later := s.eventMS > e.eventMS || s.eventMS == e.eventMS && s.partition == e.partition && s.offset > e.offset
		if key != e.joinKey || !later || next != nil && next.eventMS <= s.eventMS {
			return next != nil && next.eventMS < watermark
		}
		next = &s
		return s.eventMS < watermark
	}
	for _, other := range t.wanted {
		if other.read {
			consider(successor{other.place, other.eventMS}, other.joinKey)
		}
	}
	if next != nil && next.eventMS < watermark {
		return next, true
	}
	source := t.branch.Spec.GetKafka()
	since := e.event.GetTimestamp().AsTime().Add(-t.rec.GetSpec().GetJoin().GetGrace().AsDuration())
	err := t.service.kafka.useOf(ctx, t.branch, func(c *kafka.Cluster) error {
		from, err := c.OffsetsAt(ctx, source.GetTopic(), since)
		if err != nil {
			return err
		}
		ends, err := c.EndOffsets(ctx, source.GetTopic(), source.GetIsolation())
		if err != nil {
			return err
		}
		parser := rows.NewParser(t.plan)
		for partition, first := range from {
			for msg, err := range c.Records(ctx, source.GetTopic(), partition, first, ends[partition], source.GetIsolation()) {
				if err != nil {
					return err
				}
				what := fmt.Sprintf("topic %s, partition %d, for newer rows of the key", source.GetTopic(), partition)
				if err := t.progress(what, uint64(msg.Offset-first), uint64(ends[partition]-first)); err != nil {
					return err
				}
				if msg.Value == nil {
					continue
				}
				row, reject := parser.Parse(rows.Record{Topic: msg.Topic, Partition: msg.Partition, Offset: msg.Offset, TimestampMS: msg.Timestamp.UnixMilli(), Key: msg.Key, Value: msg.Value})
				if reject == nil && consider(successor{place{msg.Partition, msg.Offset}, row.EventMS}, row.JoinKey) {
					return nil
				}
			}
		}
		return nil
	})
	return next, err == nil
}

func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format(timeFormat) }
