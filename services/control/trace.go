package control

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/rows"
	"sluice/libs/spec"
	"sluice/libs/telemetry"
)

const (
	// traceTime bounds the reading of Kafka, logs and receipts for one answer unless the caller says otherwise.
	traceTime = 30 * time.Second
	// traceTell is how often the caller is told how far the reading is.
	traceTell = time.Second
	// traceSince is how far back events of a key are looked for unless the caller says otherwise.
	traceSince = 10 * time.Minute
	traceLimit = 100
)

// Trace tells the way of an event. There is no storage for each event to look it up in: Kafka is read again, which gives the key and
// so the lane; the logs tell of what is on its way or was a moment ago; receipts tell of blocks for a day at most. What none of
// them knows is said to be unknown.
func (s *Service) Trace(ctx context.Context, req *controlv1.TraceRequest) (*controlv1.TraceResponse, error) {
	return s.trace(ctx, req, func(*controlv1.TraceProgress) error { return nil })
}

// FollowTrace is Trace that tells every second how far it is.
func (s *Service) FollowTrace(req *controlv1.TraceRequest, stream controlv1.PipelineService_FollowTraceServer) error {
	out, err := s.trace(stream.Context(), req, func(p *controlv1.TraceProgress) error {
		return stream.Send(&controlv1.FollowTraceResponse{Message: &controlv1.FollowTraceResponse_Progress{Progress: p}})
	})
	if err != nil {
		return err
	}
	return stream.Send(&controlv1.FollowTraceResponse{Message: &controlv1.FollowTraceResponse_Result{Result: out}})
}

func (s *Service) trace(ctx context.Context, req *controlv1.TraceRequest, tell func(*controlv1.TraceProgress) error) (*controlv1.TraceResponse, error) {
	switch at := req.GetOffset(); {
	case req.GetEvent() == nil:
		return nil, codef(codes.InvalidArgument, "offset, key: both are missing: give one of them")
	case at.GetPartition() < 0:
		return nil, codef(codes.InvalidArgument, "offset.partition: %d: is negative", at.GetPartition())
	case at.GetOffset() < 0:
		return nil, codef(codes.InvalidArgument, "offset.offset: %d: is negative", at.GetOffset())
	case req.GetTimeout().AsDuration() < 0:
		return nil, codef(codes.InvalidArgument, "timeout: %s: is negative", req.GetTimeout().AsDuration())
	}
	rec, _, err := s.get(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	branch, ok := spec.BranchOf(rec.GetSpec(), req.GetSource())
	if !ok {
		names := ""
		for _, b := range spec.Branches(rec.GetSpec()) {
			names += fmt.Sprintf(" %q", b.Source)
		}
		return nil, codef(codes.InvalidArgument, "source: %q: use one of%s", req.GetSource(), names)
	}
	schemas := rec.GetSchemas()
	if len(schemas) == 0 {
		return nil, codef(codes.FailedPrecondition, "pipeline %q has no columns yet", req.GetId())
	}
	plan, err := rows.NewBranchPlan(schemas[len(schemas)-1], branch)
	if err != nil {
		return nil, err
	}
	t := &tracer{
		service: s, rec: rec, branch: branch, plan: plan, wanted: map[place]*traced{}, out: &controlv1.TraceResponse{},
		within: cmp.Or(req.GetTimeout().AsDuration(), traceTime), tell: tell, told: time.Now(),
	}
	reading, cancel := context.WithTimeout(ctx, t.within)
	defer cancel()
	find := func(c *kafka.Cluster) error { return t.offset(reading, c, req.GetOffset()) }
	if key := req.GetKey(); key != nil {
		find = func(c *kafka.Cluster) error { return t.key(reading, c, key) }
	}
	if err := s.kafka.useOf(reading, branch, find); err != nil {
		var known *coded
		if ctx.Err() != nil || errors.As(err, &known) {
			return nil, err
		}
		late := reading.Err() != nil
		if req.GetOffset() == nil && !late {
			return nil, err
		}
		t.late = t.late || late
		t.limit("Kafka could not be asked, so the lane is not known: %v", err)
		if at := req.GetOffset(); at != nil && len(t.wanted) == 0 {
			t.want(at.GetPartition(), at.GetOffset())
		}
	}
	if len(t.wanted) > 0 {
		if err := t.follow(ctx, reading); err != nil {
			return nil, err
		}
	}
	return t.answer(), nil
}

// tracer looks for some records of one source of a pipeline.
type tracer struct {
	service *Service
	rec     *controlv1.PipelineRecord
	branch  spec.Branch
	plan    *rows.Plan
	topicID []byte // empty when Kafka could not be asked
	wanted  map[place]*traced
	out     *controlv1.TraceResponse
	// receiptsFrom says how far back receipts go.
	receiptsFrom string
	within       time.Duration
	late         bool // not everything was read within that
	tell         func(*controlv1.TraceProgress) error
	told         time.Time
}

type place struct {
	partition int32
	offset    int64
}

// traced is what is known of one record.
type traced struct {
	place
	event *controlv1.TracedEvent
	lane  int // of the ingest log; -1: not known
	// With a join: where it meets its counterparts, -1 when not known; and when.
	joinLane int
	eventMS  int64
	joinKey  [2]uint64 // zero: it has none, and is equal to nothing
	read     bool      // its record was found, so that those are known
	// The rest is what was found on the way.
	ingested bool
	dropped  bool   // by dedup
	passed   bool   // by dedup
	last     []hit  // rows of it in the log that the sink reads
	receipt  string // what a receipt says; "" for none
	settled  bool   // by receipt: in the table
	refused  string // why it is a dead letter
	own      string // trace id in the record's headers
	noted    map[note]bool
	joined   joined
	before   uint64 // its message in the log that the join reads; 0: not seen
}

// note tells whether a step is known already: a message and a receipt tell of the same one, and a receipt may come twice.
type note struct {
	stage    string
	lane     int
	sequence uint64
}

// first tells whether a step has not been noted yet, and notes it.
func (e *traced) first(stage string, lane int, sequence uint64) bool {
	n := note{stage, lane, sequence}
	if e.noted[n] {
		return false
	}
	if e.noted == nil {
		e.noted = map[note]bool{}
	}
	e.noted[n] = true
	return true
}

// hit is a message of the sink's log with a row of the event.
type hit struct {
	lane     int
	sequence uint64
}

func (t *tracer) limit(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(t.out.Limits, text) {
		t.out.Limits = append(t.out.Limits, text)
	}
}

func (t *tracer) want(partition int32, offset int64) *traced {
	e := &traced{place: place{partition, offset}, lane: -1, joinLane: -1, event: &controlv1.TracedEvent{
		Source: t.branch.Source, Topic: t.branch.Spec.GetKafka().GetTopic(), Partition: partition, Offset: offset,
	}}
	t.wanted[e.place] = e
	return e
}

// step adds what is known of a stage.
func (e *traced) step(stage string, lane int, first, last uint64, at time.Time, format string, args ...any) {
	step := &controlv1.TraceStep{Stage: stage, Lane: int32(lane), FirstSequence: first, LastSequence: last, Text: fmt.Sprintf(format, args...)}
	if !at.IsZero() {
		step.Time = timestamppb.New(at)
	}
	e.event.Steps = append(e.event.Steps, step)
}

// offset looks one record up.
func (t *tracer) offset(ctx context.Context, c *kafka.Cluster, at *controlv1.TraceOffset) error {
	topic := t.branch.Spec.GetKafka().GetTopic()
	ends, err := c.EndOffsets(ctx, topic, controlv1.Isolation_READ_UNCOMMITTED)
	if err != nil {
		return err
	}
	end, ok := ends[at.GetPartition()]
	switch {
	case !ok:
		return codef(codes.InvalidArgument, "offset.partition: %d: topic %s has the partitions 0 to %d", at.GetPartition(), topic, len(ends)-1)
	case at.GetOffset() >= end:
		return codef(codes.InvalidArgument, "offset.offset: %d: partition %d of topic %s ends before offset %d", at.GetOffset(), at.GetPartition(), topic, end)
	}
	info, err := c.Topic(ctx, topic)
	if err != nil {
		return err
	}
	t.topicID = info.ID[:]
	e := t.want(at.GetPartition(), at.GetOffset())
	msg, err := c.Record(ctx, topic, at.GetPartition(), at.GetOffset())
	if errors.Is(err, kafka.ErrGone) {
		e.step("kafka", -1, 0, 0, time.Time{}, "there is no record at this offset (any more): it has expired, was compacted away, or is a transaction's marker")
		return nil
	}
	if err != nil {
		return err
	}
	t.record(e, msg)
	return nil
}

// record notes what the record itself tells.
func (t *tracer) record(e *traced, msg *kafka.Message) {
	e.event.Timestamp = timestamppb.New(msg.Timestamp)
	rec := rows.Record{Topic: msg.Topic, Partition: msg.Partition, Offset: msg.Offset, TimestampMS: msg.Timestamp.UnixMilli(), Key: msg.Key, Value: msg.Value}
	for _, h := range msg.Headers {
		rec.Headers = append(rec.Headers, rows.Header{Key: h.Key, Value: h.Value})
		if sc := telemetry.Parse(h.Value); string(h.Key) == telemetry.Header && sc.IsValid() {
			e.own = sc.TraceID().String()
		}
	}
	if msg.Value == nil {
		e.event.Outcome = controlv1.TracedEvent_TOMBSTONE
		e.step("kafka", -1, 0, 0, msg.Timestamp, "a tombstone: its value is null")
		return
	}
	row, reject := rows.NewParser(t.plan).Parse(rec)
	if reject != nil {
		e.step("kafka", -1, 0, 0, msg.Timestamp, "%d bytes, which are no event of this pipeline: %s %s", len(msg.Value), reject.Field, reject.Reason)
		return
	}
	if lanes := spec.CurrentLanes(t.rec); lanes.First == 0 {
		e.lane = t.plan.Lane(row, msg.Key, msg.Partition, lanes.Count)
		if t.plan.Join() {
			e.joinLane = t.plan.LaneOfJoin(row, lanes.Count)
		}
	} else { // it may be of before the lanes were changed
		e.lane, e.joinLane = -1, -1
	}
	if t.plan.Join() {
		e.eventMS, e.joinKey, e.read = row.EventMS, row.JoinKey, true
	}
	e.step("kafka", e.lane, 0, 0, msg.Timestamp, "a record of %d bytes", len(msg.Value))
}

// key looks for the recent records of a key.
func (t *tracer) key(ctx context.Context, c *kafka.Cluster, key *controlv1.TraceKey) error {
	want, err := t.plan.KeyOf(key.GetValues())
	if err != nil {
		return codef(codes.InvalidArgument, "key.values: %w", err)
	}
	since, limit := time.Now().Add(-traceSince), cmp.Or(int(key.GetLimit()), traceLimit)
	if key.GetSince() != nil {
		since = key.GetSince().AsTime()
	}
	source := t.branch.Spec.GetKafka()
	info, err := c.Topic(ctx, source.GetTopic())
	if err != nil {
		return err
	}
	t.topicID = info.ID[:]
	from, err := c.OffsetsAt(ctx, source.GetTopic(), since)
	if err != nil {
		return err
	}
	ends, err := c.EndOffsets(ctx, source.GetTopic(), source.GetIsolation())
	if err != nil {
		return err
	}
	parser := rows.NewParser(t.plan)
	for _, partition := range slices.Sorted(maps.Keys(from)) {
		first := from[partition]
		for msg, err := range c.Records(ctx, source.GetTopic(), partition, first, ends[partition], source.GetIsolation()) {
			if msg != nil {
				what := fmt.Sprintf("topic %s, partition %d", source.GetTopic(), partition)
				if err := t.progress(what, uint64(msg.Offset-first), uint64(ends[partition]-first)); err != nil {
					return err
				}
			}
			switch {
			case err != nil && ctx.Err() != nil:
				t.late = true
				t.limit("the records since %s could not all be read within %s: ask for a later time, or allow more of it (--timeout)", since.UTC().Format(time.RFC3339), t.within)
				return nil
			case err != nil:
				return err
			case msg.Value == nil:
				continue
			}
			row, reject := parser.Parse(rows.Record{Topic: msg.Topic, Partition: msg.Partition, Offset: msg.Offset,
				TimestampMS: msg.Timestamp.UnixMilli(), Key: msg.Key, Value: msg.Value})
			if reject != nil || !t.plan.HasKey(row, want) {
				continue
			}
			if len(t.wanted) == limit {
				t.limit("there are more than %d events of this key", limit)
				return nil
			}
			t.record(t.want(msg.Partition, msg.Offset), msg)
		}
	}
	if len(t.wanted) == 0 && !t.late {
		t.limit("no event of this key came since %s", since.UTC().Format(time.RFC3339))
	}
	return nil
}

// wayOf is the order of the stages.
var wayOf = []string{"kafka", spec.StageIngest, spec.StageDedup, spec.StageJoin, spec.StageSink}

// progress tells how far the reading is, now and then. An error says that nobody listens any more.
func (t *tracer) progress(what string, messages, of uint64) error {
	now := time.Now()
	if now.Sub(t.told) < traceTell {
		return nil
	}
	t.told = now
	return t.tell(&controlv1.TraceProgress{Step: what, Messages: messages, OfMessages: of})
}

// answer orders the events as they came.
func (t *tracer) answer() *controlv1.TraceResponse {
	t.out.Incomplete = t.late
	for _, e := range t.wanted {
		slices.SortStableFunc(e.event.Steps, func(a, b *controlv1.TraceStep) int {
			return cmp.Compare(slices.Index(wayOf, a.GetStage()), slices.Index(wayOf, b.GetStage()))
		})
		t.out.Events = append(t.out.Events, e.event)
	}
	slices.SortFunc(t.out.Events, func(a, b *controlv1.TracedEvent) int {
		return cmp.Or(a.GetTimestamp().AsTime().Compare(b.GetTimestamp().AsTime()), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return t.out
}

// traceIDOf is the trace id of a batch's context; empty when it has none.
func traceIDOf(traceparent []byte) string {
	if sc := telemetry.Parse(traceparent); sc.IsSampled() {
		return sc.TraceID().String()
	}
	return ""
}

func hexID(id []byte) string { return hex.EncodeToString(id) }
