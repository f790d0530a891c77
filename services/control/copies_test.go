package control_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/registry"
)

// goesBack makes the registry what it was, as an earlier copy of its bucket does: the record is an older one.
func (s *site) goesBack(rec *controlv1.PipelineRecord) {
	s.t.Helper()
	kv, err := s.js.KeyValue(s.t.Context(), registry.PipelinesBucket)
	require.NoError(s.t, err)
	data, err := proto.Marshal(rec)
	require.NoError(s.t, err)
	_, err = kv.Put(s.t.Context(), rec.GetSpec().GetId(), data)
	require.NoError(s.t, err)
}

func (s *site) record() *controlv1.PipelineRecord {
	s.t.Helper()
	rec, _, err := s.registry.Get(s.t.Context(), "orders")
	require.NoError(s.t, err)
	return rec
}

// copied waits until the copy is what the registry has.
func (s *site) copied(rec *controlv1.PipelineRecord) {
	s.t.Helper()
	kv, err := s.js.KeyValue(s.t.Context(), checkpoint.Bucket("orders"))
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool {
		entry, err := kv.Get(s.t.Context(), "record")
		var held controlv1.PipelineRecord
		return err == nil && proto.Unmarshal(entry.Value(), &held) == nil && proto.Equal(&held, rec)
	}, 2*time.Minute, 20*time.Millisecond)
}

// The registry loses a record's last change, of the specification or of what is wanted: it is put back from the copy in the state bucket, once, and told.
func TestTheRegistryLosesAChange(t *testing.T) {
	s, first := created(t)
	s.copied(first)
	changed := s.parse(orders)
	changed.Dedup.Window = durationpb.New(48 * time.Hour)
	update, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: changed})
	require.NoError(t, err)
	s.copied(update.GetPipeline())
	s.goesBack(first)
	require.Eventually(t, func() bool { return proto.Equal(s.record(), update.GetPipeline()) }, 2*time.Minute, 20*time.Millisecond)
	pause, err := s.client.Pause(t.Context(), &controlv1.PauseRequest{Id: "orders"})
	require.NoError(t, err)
	s.copied(pause.GetPipeline())
	s.goesBack(update.GetPipeline())
	require.Eventually(t, func() bool { return proto.Equal(s.record(), pause.GetPipeline()) }, 2*time.Minute, 20*time.Millisecond)
	require.Equal(t, 2, strings.Count(s.logs.String(), "the registry lost the last change"))
}

// The copy is gone, too: applying the pipeline makes a generation beyond all that the stages have worked by, also when nothing else is different.
func TestApplyGoesBeyondWhatWasSeen(t *testing.T) {
	s, first := created(t)
	kv, err := s.js.KeyValue(t.Context(), checkpoint.Bucket("orders"))
	require.NoError(t, err)
	data, err := proto.Marshal(&eventv1.SinkPosition{Format: 1, Generation: 7})
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), checkpoint.PositionKey(1), data)
	require.NoError(t, err)
	body, err := proto.Marshal(&eventv1.IngestPosition{Generation: 9})
	require.NoError(t, err)
	_, err = s.js.Publish(t.Context(), "sluice.orders.ingest.fence.0", body)
	require.NoError(t, err)
	again, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: s.parse(orders)})
	require.NoError(t, err)
	require.EqualValues(t, 10, again.GetPipeline().GetGeneration())
	require.True(t, proto.Equal(first.GetSpec(), again.GetPipeline().GetSpec()))
	require.Len(t, again.GetPipeline().GetSchemas(), 1)
	same, err := s.client.Update(t.Context(), &controlv1.UpdateRequest{Pipeline: s.parse(orders)})
	require.NoError(t, err)
	require.EqualValues(t, 10, same.GetPipeline().GetGeneration())
}
