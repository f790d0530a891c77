package control_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
)

// report puts the condition of a unit into the registry.
func (s *site) report(u *stagev1.UnitStatus) {
	s.t.Helper()
	u.Pipeline, u.Owner, u.Condition = "orders", "o", stagev1.UnitStatus_RUNNING
	require.NoError(s.t, s.registry.PutStatus(s.t.Context(), u))
}

func (s *site) status() *controlv1.PipelineStatus {
	s.t.Helper()
	st, err := s.client.Status(s.t.Context(), &controlv1.StatusRequest{Id: "orders"})
	require.NoError(s.t, err)
	return st.Status
}

// topicID asks for the topic's id as the ingestor would report it.
func (s *site) topicID() []byte {
	s.t.Helper()
	topics, err := s.admin.ListTopics(s.t.Context(), "orders")
	require.NoError(s.t, err)
	id := topics["orders"].ID
	return id[:]
}

func TestStatus(t *testing.T) {
	s, rec := created(t) // 10 events in 2 partitions
	st := s.status()
	require.Equal(t, controlv1.PipelineStatus_STARTING, st.State)
	require.EqualValues(t, 10, st.Lag)
	require.Equal(t, controlv1.Guarantee_EXACTLY_ONCE, st.Guarantee.Level)

	id := s.topicID()
	for p := range uint32(2) {
		s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "ingest", Unit: p, Position: 5, TopicId: id, Tally: &eventv1.Tally{Records: 5, Rows: 5}})
	}
	for lane := range uint32(4) {
		s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "dedup", Unit: lane, Tally: &eventv1.Tally{}, StateKeys: 3, StateBytes: 60})
		s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "sink", Unit: lane, Tally: &eventv1.Tally{}})
	}
	st = s.status()
	require.Equal(t, controlv1.PipelineStatus_RUNNING, st.State)
	require.EqualValues(t, 10, st.Lag, "all in the ingest log")
	require.EqualValues(t, 12, st.StateKeys)
	require.EqualValues(t, 240, st.StateBytes)
	s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "dedup", Unit: 0, Tally: &eventv1.Tally{Records: 10, Rows: 8, Duplicates: 2}})
	s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "sink", Unit: 0, Tally: &eventv1.Tally{Records: 8, Rows: 8}})
	s.report(&stagev1.UnitStatus{PipelineUid: "another", Stage: "sink", Unit: 3, Tally: &eventv1.Tally{Records: 1000, Rows: 1000}, LastError: "not of this pipeline"})
	st = s.status()
	require.Zero(t, st.Lag)
	require.EqualValues(t, 8, st.RowsOut)
	require.Empty(t, st.Errors)

	// The topic is made anew: everything in it waits.
	_, err := s.admin.DeleteTopics(t.Context(), "orders")
	require.NoError(t, err)
	st = s.status()
	require.Equal(t, controlv1.PipelineStatus_DEGRADED, st.State)
	require.Contains(t, st.Errors[0], "the lag is as last known")
	s.topic("orders", 2, events(3)...)
	require.EqualValues(t, 3, s.status().Lag)

	_, err = s.client.Status(t.Context(), &controlv1.StatusRequest{Id: "nobody"})
	require.Equal(t, codes.NotFound, status.Code(err))
}

// TestStatusWithoutKafka: the last lag stays, and it is said that it is old; but it is never 0.
// A stage has healed, and the counts do not match any more, in either direction: positions tell whether anything is on its way.
func TestLagOfAPipelineThatHealed(t *testing.T) {
	s, rec := created(t)
	id := s.topicID()
	for p := range uint32(2) {
		s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "ingest", Unit: p, Position: 5, TopicId: id, Tally: &eventv1.Tally{Records: 5, Rows: 5}})
	}
	for lane := range uint32(4) {
		s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "dedup", Unit: lane, Tally: &eventv1.Tally{Records: 2, Rows: 2}})
		s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "sink", Unit: lane, Tally: &eventv1.Tally{Records: 2, Rows: 2}})
	}
	require.EqualValues(t, 2, s.status().Lag, "by the counts")

	const what = "the log lost its tail: healed"
	kv, err := s.js.KeyValue(t.Context(), checkpoint.Bucket("orders"))
	require.NoError(t, err)
	ends := map[string]fencedlog.Mark{}
	for _, stage := range []string{fencedlog.Ingest, fencedlog.Dedup} {
		writer := map[string]string{fencedlog.Ingest: "0", fencedlog.Dedup: "2"}[stage]
		w, _, err := fencedlog.Open(t.Context(), s.js, fencedlog.Log{Pipeline: "orders", Stage: stage}, writer, fencedlog.Options{Lanes: []int{2}})
		require.NoError(t, err)
		sequence, err := w.Append(t.Context(), 2, fmt.Sprint(ends[fencedlog.Ingest].Sequence), []byte("a batch"))
		require.NoError(t, err)
		last, err := fencedlog.LastMessage(t.Context(), s.js, fencedlog.Log{Pipeline: "orders", Stage: stage}, 2, writer)
		require.NoError(t, err)
		ends[stage] = fencedlog.Mark{Sequence: sequence, Time: last.Time}
	}
	reach := func(key string, position proto.Message) {
		t.Helper()
		value, err := proto.Marshal(position)
		require.NoError(t, err)
		_, err = kv.Put(t.Context(), key, value)
		require.NoError(t, err)
	}
	for _, counted := range []uint64{2, 9} {
		s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "dedup", Unit: 2, Tally: &eventv1.Tally{Records: counted, Rows: 2}, LastError: fmt.Sprint(what, counted)})
		reach("dedup.2.manifest", &eventv1.Manifest{})
		reach("sink.2.position", &eventv1.SinkPosition{})
		require.NotZero(t, s.status().Lag, "dedup has the batch to come")
		at := ends[fencedlog.Ingest]
		if counted == 2 { // else its log has to tell
			reach("dedup.2.manifest", &eventv1.Manifest{CoveredSequence: at.Sequence, CoveredTimeNs: at.Time.UnixNano()})
		}
		require.NotZero(t, s.status().Lag, "the sink has")
		at = ends[fencedlog.Dedup]
		reach("sink.2.position", &eventv1.SinkPosition{CoveredSequence: at.Sequence, CoveredTimeNs: 1})
		require.NotZero(t, s.status().Lag, "it has, but of before a loss")
		reach("sink.2.position", &eventv1.SinkPosition{CoveredSequence: at.Sequence, CoveredTimeNs: at.Time.UnixNano()})
		require.Zero(t, s.status().Lag)
	}
	// A word of a partition that is idle comes behind what was there.
	w, _, err := fencedlog.Open(t.Context(), s.js, fencedlog.Log{Pipeline: "orders", Stage: fencedlog.Ingest}, "0", fencedlog.Options{Lanes: []int{2}})
	require.NoError(t, err)
	_, err = w.Append(t.Context(), 2, "2", []byte("idle"))
	require.NoError(t, err)
	require.Zero(t, s.status().Lag)
	s.produce("orders", 2, events(3)...)
	require.EqualValues(t, 3, s.status().Lag, "in Kafka")
}

func TestStatusWithoutKafka(t *testing.T) {
	s := newSite(t)
	broker := kafkatest.OpenFake(t, kafka.Config{Dir: t.TempDir(), Topics: map[string]int32{"orders": 1}})
	s.sql(ordersTable)
	pipeline := parse(t, orders, "KAFKA", broker.Addr(), "CH", s.ch, "DB", s.db)
	s.create(pipeline)
	require.Zero(t, s.status().Lag)
	broker.Close()
	st := s.status()
	require.Equal(t, controlv1.PipelineStatus_DEGRADED, st.State)
	require.EqualValues(t, 1, st.Lag)
	require.Len(t, st.Errors, 1)
	require.Contains(t, st.Errors[0], "the lag is as last known: source.kafka.brokers ["+broker.Addr()+"]")
	s.stop()
	s.start(quick)
	st = s.status()
	require.NotZero(t, st.Lag)
	require.Contains(t, st.Errors[0], "the lag is not known: ")
}

func TestWatch(t *testing.T) {
	s, rec := created(t)
	stream, err := s.client.Watch(t.Context(), &controlv1.WatchRequest{Id: "orders", Interval: durationpb.New(100 * time.Millisecond)})
	require.NoError(t, err)
	first, err := stream.Recv()
	require.NoError(t, err)
	require.EqualValues(t, 10, first.Status.Lag)
	s.produce("orders", 2, events(1)...)
	second, err := stream.Recv()
	require.NoError(t, err)
	require.EqualValues(t, 11, second.Status.Lag)
	require.False(t, proto.Equal(first, second))
	s.report(&stagev1.UnitStatus{PipelineUid: rec.Uid, Stage: "sink", Unit: 0, LastError: "waits"})
	third, err := stream.Recv()
	require.NoError(t, err)
	require.Equal(t, []string{"sink, lane 0: waits"}, third.Status.Errors)
	s.unit(rec, stagev1.UnitStatus_STOPPED)
	_, err = s.client.Delete(t.Context(), &controlv1.DeleteRequest{Id: "orders"})
	require.NoError(t, err)
	for err == nil {
		_, err = stream.Recv()
	}
	require.Equal(t, codes.NotFound, status.Code(err))

	short, err := s.client.Watch(t.Context(), &controlv1.WatchRequest{Id: "orders", Interval: durationpb.New(time.Millisecond)})
	require.NoError(t, err)
	_, err = short.Recv()
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

func TestListDeadLetters(t *testing.T) {
	s, _ := created(t)
	ctx := t.Context()
	list := func(limit uint64) []*controlv1.ListDeadLettersResponse {
		stream, err := s.client.ListDeadLetters(ctx, &controlv1.ListDeadLettersRequest{Id: "orders", Limit: limit})
		require.NoError(t, err)
		var all []*controlv1.ListDeadLettersResponse
		for {
			l, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return all
			}
			require.NoError(t, err)
			all = append(all, l)
		}
	}
	require.Empty(t, list(0))

	log := fencedlog.Log{Pipeline: "orders", Stage: fencedlog.DeadLetters}
	for _, name := range []string{"0", "sink-1"} { // a fence and two messages each
		w, _, err := fencedlog.Open(ctx, s.js, log, name, fencedlog.Options{Lanes: []int{0}})
		require.NoError(t, err)
		for n := range 2 {
			batch := &eventv1.DeadLetterBatch{}
			for i := range 2 {
				batch.Letters = append(batch.Letters, &eventv1.DeadLetter{
					Topic: "orders", Partition: 1, Offset: int64(10*n + i), TimestampMs: 1_700_000_000_123, Value: []byte("not json"), Key: []byte("k"),
					Stage: name, Field: "amount", Reason: "not a number", RefusedMs: 1_700_000_000_456, ValueTruncated: i == 1,
				})
			}
			data, err := proto.Marshal(batch)
			require.NoError(t, err)
			_, err = w.Append(ctx, 0, fmt.Sprint(n+1), data)
			require.NoError(t, err)
		}
	}
	all := list(0)
	require.Len(t, all, 8)
	require.Equal(t, []int64{0, 1, 10, 11}, []int64{all[0].Offset, all[1].Offset, all[2].Offset, all[3].Offset}, "oldest first")
	first := all[0]
	require.Equal(t, "not json", string(first.Value))
	require.Equal(t, "k", string(first.Key))
	require.Equal(t, "amount: not a number", first.Field+": "+first.Reason)
	require.Equal(t, "2023-11-14T22:13:20.123Z", first.Timestamp.AsTime().Format(time.RFC3339Nano))
	require.Equal(t, "2023-11-14T22:13:20.456Z", first.Refused.AsTime().Format(time.RFC3339Nano))
	require.True(t, all[1].ValueTruncated)
	require.Equal(t, "sink-1", all[7].Stage)
	require.Greater(t, all[7].Sequence, first.Sequence)
	require.Len(t, list(3), 3)

	stream, err := s.client.ListDeadLetters(ctx, &controlv1.ListDeadLettersRequest{Id: "nobody"})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.Equal(t, codes.NotFound, status.Code(err))
}
