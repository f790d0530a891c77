package control_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/registry"
	"sluice/services/control"
)

func created(t *testing.T) (*site, *controlv1.PipelineRecord) {
	t.Helper()
	s := newSite(t)
	s.topic("orders", 2, events(10)...)
	s.sql(ordersTable)
	return s, s.create(s.parse(orders)).Pipeline
}

func TestUpdate(t *testing.T) {
	s, before := created(t)
	update := func(change func(*controlv1.Pipeline)) (*controlv1.UpdateResponse, error) {
		pipeline := s.parse(orders)
		change(pipeline)
		return s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: pipeline})
	}

	same, err := update(func(*controlv1.Pipeline) {})
	require.NoError(t, err)
	require.True(t, proto.Equal(before, same.Pipeline), "nothing has changed")

	wider, err := update(func(p *controlv1.Pipeline) { p.Dedup.Window = durationpb.New(48 * time.Hour) })
	require.NoError(t, err)
	require.EqualValues(t, 2, wider.Pipeline.Generation)
	require.Len(t, wider.Pipeline.Schemas, 1)
	require.Equal(t, before.Uid, wider.Pipeline.Uid)

	s.sql("ALTER TABLE DB.orders ADD COLUMN extra Int64")
	checked, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: s.parse(orders), ValidateOnly: true})
	require.NoError(t, err)
	require.Len(t, checked.Pipeline.Schemas, 2)
	column, err := update(func(p *controlv1.Pipeline) { p.Dedup.Window = durationpb.New(48 * time.Hour) })
	require.NoError(t, err)
	require.EqualValues(t, 3, column.Pipeline.Generation, "the check alone has changed nothing")
	require.Len(t, column.Pipeline.Schemas, 2, "batches of the first layout may still be on their way")
	require.EqualValues(t, 2, column.Pipeline.Schemas[1].Revision)
	require.Len(t, column.Pipeline.Schemas[1].Columns, len(column.Pipeline.Schemas[0].Columns)+1)

	_, err = update(func(p *controlv1.Pipeline) {

		p.Source.Kafka.Topic, p.Source.Kafka.Start, p.Source.Kafka.Group = "other", "LATEST", "g"
		p.Dedup.Key, p.Dedup.Time = []string{"amount"}, "at"
		p.Dedup.Keep, p.Dedup.Version = controlv1.Keep_LATEST, "amount"
		p.Sink.Clickhouse.Table = "elsewhere.orders"
	})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	golden(t, "unchangeable.txt", status.Convert(err).Message(), s.db, "DB")
	_, err = update(func(p *controlv1.Pipeline) { p.Dedup = nil })
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	_, err = update(func(p *controlv1.Pipeline) { p.Columns[0].Name = "none" })
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = update(func(p *controlv1.Pipeline) { p.Id = "other" })
	require.Equal(t, codes.NotFound, status.Code(err))
	after, err := s.client.Get(t.Context(), &controlv1.GetRequest{Id: "orders"})
	require.NoError(t, err)
	require.True(t, proto.Equal(column.Pipeline, after.Pipeline), "what was refused has changed nothing")
}

// TestUpdateToAnotherCluster: brokers of another cluster are refused once something was read.
func TestUpdateToAnotherCluster(t *testing.T) {
	s, rec := created(t)
	other := kafkatest.OpenFake(t, kafka.Config{Topics: map[string]int32{"orders": 2}}).Addr()
	t.Cleanup(s.stop) // before the broker that it is connected to
	pipeline := s.parse(orders)
	pipeline.Source.Kafka.Brokers = []string{other}
	id := make([]byte, 16)
	id[0] = 7
	require.NoError(t, s.registry.PutStatus(t.Context(), &stagev1.UnitStatus{Pipeline: "orders", PipelineUid: rec.Uid, Stage: "ingest", TopicId: id}))
	_, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: pipeline})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.ErrorContains(t, err, "source.kafka.brokers: "+other+": are of another cluster")
}

func TestPauseAndResume(t *testing.T) {
	s, rec := created(t)
	for range 2 { // again is no error
		paused, err := s.client.Pause(t.Context(), &controlv1.PauseRequest{Id: "orders"})
		require.NoError(t, err)
		require.Equal(t, controlv1.DesiredState_PAUSED, paused.Pipeline.Desired)
		require.Equal(t, rec.Generation, paused.Pipeline.Generation)
	}
	st, err := s.client.Status(t.Context(), &controlv1.StatusRequest{Id: "orders"})
	require.NoError(t, err)
	require.Equal(t, controlv1.PipelineStatus_PAUSED, st.Status.State)
	resumed, err := s.client.Resume(t.Context(), &controlv1.ResumeRequest{Id: "orders"})
	require.NoError(t, err)
	require.Equal(t, controlv1.DesiredState_RUNNING, resumed.Pipeline.Desired)
	_, err = s.client.Pause(t.Context(), &controlv1.PauseRequest{Id: "nobody"})
	require.Equal(t, codes.NotFound, status.Code(err))
	_, err = s.client.Pause(t.Context(), &controlv1.PauseRequest{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

// unit reports a condition of lane 0 of dedup.
func (s *site) unit(rec *controlv1.PipelineRecord, c stagev1.UnitStatus_Condition) {
	s.t.Helper()
	require.NoError(s.t, s.registry.PutStatus(s.t.Context(), &stagev1.UnitStatus{
		Pipeline: "orders", PipelineUid: rec.Uid, Stage: "dedup", Owner: "o", Condition: c,
	}))
}

func (s *site) commitGroup() {
	s.t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset("orders", 0, 3, -1)
	require.NoError(s.t, s.admin.CommitAllOffsets(s.t.Context(), "sluice-orders", offsets))
}

func (s *site) groupGone() bool {
	groups, err := s.admin.ListGroups(s.t.Context())
	require.NoError(s.t, err)
	_, there := groups["sluice-orders"]
	return !there
}

func (s *site) gone() bool {
	_, err := s.client.Get(s.t.Context(), &controlv1.GetRequest{Id: "orders"})
	return status.Code(err) == codes.NotFound
}

func (s *site) deleting() bool {
	st, err := s.client.Status(s.t.Context(), &controlv1.StatusRequest{Id: "orders"})
	return err == nil && st.Status.State == controlv1.PipelineStatus_DELETING
}

// patient waits for units however long they take.
func patient() control.Config {
	config := quick
	config.StopTimeout = time.Hour
	return config
}

func TestDelete(t *testing.T) {
	s, rec := created(t)
	s.stop()
	s.start(patient())
	s.commitGroup()
	require.False(t, s.groupGone())
	s.unit(rec, stagev1.UnitStatus_RUNNING)

	deleted := make(chan error, 1)
	go func() {
		_, err := s.client.Delete(context.Background(), &controlv1.DeleteRequest{Id: "orders"})
		deleted <- err
	}()
	require.Eventually(t, s.deleting, 2*time.Minute, 10*time.Millisecond)
	require.ElementsMatch(t, complete("orders"), s.streams("orders"), "a unit is still at work")
	_, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: s.parse(orders)})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	_, err = s.client.Resume(t.Context(), &controlv1.ResumeRequest{Id: "orders"})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	_, err = s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: s.parse(orders)})
	require.Equal(t, codes.AlreadyExists, status.Code(err))
	require.ErrorContains(t, err, "is still being deleted")

	s.unit(rec, stagev1.UnitStatus_STOPPED)
	require.NoError(t, <-deleted)
	require.True(t, s.gone())
	require.Empty(t, s.streams("orders"))
	require.True(t, s.groupGone())
	left, err := s.registry.Statuses(t.Context(), "orders")
	require.NoError(t, err)
	require.Empty(t, left)
	_, err = s.client.Delete(t.Context(), &controlv1.DeleteRequest{Id: "orders"})
	require.Equal(t, codes.NotFound, status.Code(err))

	again := s.create(s.parse(orders)).Pipeline
	require.NotEqual(t, rec.Uid, again.Uid)
	s.unit(rec, stagev1.UnitStatus_RUNNING) // a late word of the one before
	_, err = s.client.Delete(t.Context(), &controlv1.DeleteRequest{Id: "orders"})
	require.NoError(t, err)
}

// TestDeleteWithoutAnswer: an owner that was killed, and a Kafka that is gone, do not keep a pipeline
// from being deleted.
func TestDeleteWithoutAnswer(t *testing.T) {
	s, rec := created(t)
	s.unit(rec, stagev1.UnitStatus_RUNNING)
	got, rev, err := s.registry.Get(t.Context(), "orders")
	require.NoError(t, err)
	got.Spec.Source.Kafka.Brokers = []string{"127.0.0.1:1"}
	_, err = s.registry.Update(t.Context(), got, rev)
	require.NoError(t, err)
	_, err = s.client.Delete(t.Context(), &controlv1.DeleteRequest{Id: "orders"})
	require.NoError(t, err)
	require.Empty(t, s.streams("orders"))
	require.Contains(t, s.logs.String(), "the consumer group could not be removed")
}

// TestDeleteOfWhatNeverBegan: a unit that nobody owns (its topic is gone, say) is not waited for.
func TestDeleteOfWhatNeverBegan(t *testing.T) {
	s, rec := created(t)
	s.stop()
	s.start(patient())
	require.NoError(t, s.registry.PutStatus(t.Context(), &stagev1.UnitStatus{
		Pipeline: "orders", PipelineUid: rec.Uid, Stage: "ingest", Condition: stagev1.UnitStatus_WAITING, LastError: "no topic",
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := s.client.Delete(ctx, &controlv1.DeleteRequest{Id: "orders"})
	require.NoError(t, err)
}

// TestDeleteOutlivesACrash: the service dies after each step of a deletion; the next one finishes it.
func TestDeleteOutlivesACrash(t *testing.T) {
	s, rec := created(t)
	for step, name := range []string{"marked", "group removed", "a stream removed", "all streams removed", "bucket removed"} {
		t.Run(name, func(t *testing.T) {
			if step > 0 {
				s.start(quick)
				rec = s.create(s.parse(orders)).Pipeline
			}
			s.commitGroup()
			s.unit(rec, stagev1.UnitStatus_STOPPED)
			s.stop()
			// What a service has done that was killed here.
			got, rev, err := s.registry.Get(t.Context(), "orders")
			require.NoError(t, err)
			got.Desired = controlv1.DesiredState_DELETING
			_, err = s.registry.Update(t.Context(), got, rev)
			require.NoError(t, err)
			if step >= 1 {
				_, err := s.admin.DeleteGroups(t.Context(), "sluice-orders")
				require.NoError(t, err)
			}
			if step >= 2 {
				require.NoError(t, s.js.DeleteStream(t.Context(), "sluice_orders_ingest"))
			}
			if step >= 3 {
				require.NoError(t, s.js.DeleteStream(t.Context(), "sluice_orders_dedup"))
				require.NoError(t, s.js.DeleteStream(t.Context(), "sluice_orders_dlq"))
			}
			if step >= 4 {
				require.NoError(t, s.js.DeleteKeyValue(t.Context(), "sluice_orders_state"))
			}
			s.start(quick)
			require.Eventually(t, s.gone, 2*time.Minute, 20*time.Millisecond)
			require.Empty(t, s.streams("orders"))
			require.True(t, s.groupGone())
			s.stop()
		})
	}
}

// TestCallerLeavesDeletion: a deletion goes on when its caller has left.
func TestCallerLeavesDeletion(t *testing.T) {
	s, rec := created(t)
	s.unit(rec, stagev1.UnitStatus_RUNNING)
	s.stop()
	s.start(patient())
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := s.client.Delete(ctx, &controlv1.DeleteRequest{Id: "orders"})
		left <- err
	}()
	require.Eventually(t, s.deleting, 2*time.Minute, 10*time.Millisecond)
	leave()
	require.Equal(t, codes.Canceled, status.Code(<-left))
	require.False(t, s.gone())
	s.unit(rec, stagev1.UnitStatus_STOPPED)
	require.Eventually(t, s.gone, 2*time.Minute, 20*time.Millisecond)
	require.Empty(t, s.streams("orders"))
}

// TestMissingPartsAreMadeAnew: while the service runs, and when it starts.
func TestMissingPartsAreMadeAnew(t *testing.T) {
	s, _ := created(t)
	back := func() bool { return len(s.streams("orders")) == len(complete("orders")) }
	require.NoError(t, s.js.DeleteStream(t.Context(), "sluice_orders_dedup"))
	require.NoError(t, s.js.DeleteKeyValue(t.Context(), "sluice_orders_state"))
	require.Eventually(t, back, 2*time.Minute, 20*time.Millisecond)
	s.stop()
	require.NoError(t, s.js.DeleteStream(t.Context(), "sluice_orders_ingest"))
	s.start(control.Config{CheckEvery: time.Hour})
	require.Eventually(t, back, 2*time.Minute, 20*time.Millisecond)
}

// TestLeftoversAreNotTaken: streams of an earlier pipeline whose record is lost are not the new one's, and are removed only when somebody says so.
func TestLeftoversAreNotTaken(t *testing.T) {
	s, rec := created(t)
	_, err := s.js.Publish(t.Context(), "sluice.orders.ingest.0.0", []byte("old"))
	require.NoError(t, err)
	s.commitGroup()
	require.NoError(t, s.js.DeleteKeyValue(t.Context(), registry.PipelinesBucket))
	require.Eventually(t, s.gone, 2*time.Minute, 20*time.Millisecond)

	for _, validate := range []bool{true, false} {
		_, err = s.client.Create(t.Context(), &controlv1.CreateRequest{Pipeline: s.parse(orders), ValidateOnly: validate})
		require.Equal(t, codes.FailedPrecondition, status.Code(err), "%v", err)
		require.ErrorContains(t, err, "stream sluice_orders_ingest holds data")
	}
	list, err := s.client.List(t.Context(), &controlv1.ListRequest{})
	require.NoError(t, err)
	require.Empty(t, list.GetPipelines())
	require.Len(t, list.GetOrphans(), 1)
	require.Equal(t, "orders", list.GetOrphans()[0].GetId())
	require.Equal(t, []string{"sluice_orders_ingest"}, list.GetOrphans()[0].GetStreams())
	told := func() int { return strings.Count(s.logs.String(), "nothing is removed by itself") }
	require.Eventually(t, func() bool { return told() == 1 }, 2*time.Minute, 20*time.Millisecond)

	// With its record again all is as it was.
	_, err = s.registry.Create(t.Context(), rec)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(s.logs.String(), "or has one again") }, 2*time.Minute, 20*time.Millisecond)
	require.Equal(t, 1, told())
	stream, err := s.js.Stream(t.Context(), "sluice_orders_ingest")
	require.NoError(t, err)
	require.EqualValues(t, 1, stream.CachedInfo().State.Msgs)

	require.NoError(t, s.js.DeleteKeyValue(t.Context(), registry.PipelinesBucket))
	require.Eventually(t, s.gone, 2*time.Minute, 20*time.Millisecond)
	_, err = s.client.Delete(t.Context(), &controlv1.DeleteRequest{Id: "orders"})
	require.NoError(t, err)
	require.Empty(t, s.streams("orders"))
	_, err = s.client.Delete(t.Context(), &controlv1.DeleteRequest{Id: "orders"})
	require.Equal(t, codes.NotFound, status.Code(err))
	s.create(s.parse(orders))
	stream, err = s.js.Stream(t.Context(), "sluice_orders_ingest")
	require.NoError(t, err)
	require.Zero(t, stream.CachedInfo().State.LastSeq)
	require.True(t, s.groupGone(), "its offsets would make the new one skip records")
}

func TestLogSaysWhatWasDone(t *testing.T) {
	s, _ := created(t)
	_, err := s.client.Delete(t.Context(), &controlv1.DeleteRequest{Id: "orders"})
	require.NoError(t, err)
	require.True(t, strings.Contains(s.logs.String(), "pipeline created") && strings.Contains(s.logs.String(), "pipeline deleted"))
}
