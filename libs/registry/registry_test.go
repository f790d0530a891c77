package registry_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/registry"
)

// leaks fails the test when goroutines are left once all that it started has ended.
func leaks(t *testing.T) {
	t.Helper()
	options := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, options) })
}

func open(t *testing.T, url string) (*registry.Registry, jetstream.JetStream) {
	t.Helper()
	_, js := natstest.Connect(t, url)
	r, err := registry.Open(t.Context(), js)
	require.NoError(t, err)
	return r, js
}

func record(id string, generation uint64) *controlv1.PipelineRecord {
	return &controlv1.PipelineRecord{Spec: &controlv1.Pipeline{Id: id}, Uid: "uid-" + id, Generation: generation}
}

func TestRecords(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	r, _ := open(t, natstest.Start(t))

	_, _, err := r.Get(ctx, "a")
	require.ErrorIs(t, err, registry.ErrNotFound)
	_, _, err = r.Get(ctx, "not a key")
	require.ErrorIs(t, err, registry.ErrNotFound)
	list, err := r.List(ctx)
	require.NoError(t, err)
	require.Empty(t, list)

	first, err := r.Create(ctx, record("b", 1))
	require.NoError(t, err)
	_, err = r.Create(ctx, record("b", 9))
	require.ErrorIs(t, err, registry.ErrExists)
	_, err = r.Create(ctx, record("a", 1))
	require.NoError(t, err)

	second, err := r.Update(ctx, record("b", 2), first)
	require.NoError(t, err)
	_, err = r.Update(ctx, record("b", 3), first)
	require.ErrorIs(t, err, registry.ErrConflict)
	got, rev, err := r.Get(ctx, "b")
	require.NoError(t, err)
	require.Equal(t, second, rev)
	require.Empty(t, cmp.Diff(record("b", 2), got, protocmp.Transform()))

	list, err = r.List(ctx)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff([]*controlv1.PipelineRecord{record("a", 1), record("b", 2)}, list, protocmp.Transform()))

	require.ErrorIs(t, r.Delete(ctx, "b", first), registry.ErrConflict)
	require.NoError(t, r.Delete(ctx, "b", second))
	_, _, err = r.Get(ctx, "b")
	require.ErrorIs(t, err, registry.ErrNotFound)
	_, err = r.Update(ctx, record("b", 3), second)
	require.ErrorIs(t, err, registry.ErrConflict, "a deleted record cannot be updated back to life")
	again, err := r.Create(ctx, record("b", 1))
	require.NoError(t, err)
	require.Greater(t, again, second)
}

func status(id string, unit uint32, records uint64) *stagev1.UnitStatus {
	return &stagev1.UnitStatus{Pipeline: id, Stage: "ingest", Unit: unit, Tally: &eventv1.Tally{Records: records}}
}

func TestStatuses(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	server := natstest.New(t)
	r, js := open(t, server.URL())

	got, err := r.Statuses(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, got)
	for _, s := range []*stagev1.UnitStatus{status("a", 10, 1), status("a", 2, 1), status("a", 2, 5), status("a-b", 0, 7)} {
		require.NoError(t, r.PutStatus(ctx, s))
	}
	got, err = r.Statuses(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff([]*stagev1.UnitStatus{status("a", 2, 5), status("a", 10, 1)}, got, protocmp.Transform()))

	require.NoError(t, r.DeleteStatuses(ctx, "a"))
	got, err = r.Statuses(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, got)
	got, err = r.Statuses(ctx, "a-b")
	require.NoError(t, err)
	require.Len(t, got, 1, "another pipeline's statuses stay")

	t.Run("more than a watcher's buffer", func(t *testing.T) {
		for unit := range uint32(600) {
			require.NoError(t, r.PutStatus(ctx, status("big", unit, 1)))
		}
		got, err := r.Statuses(ctx, "big")
		require.NoError(t, err)
		require.Len(t, got, 600)
	})

	t.Run("bucket gone", func(t *testing.T) {
		require.NoError(t, js.DeleteKeyValue(ctx, registry.StatusBucket))
		require.NoError(t, r.DeleteStatuses(ctx, "a"))
		got, err := r.Statuses(ctx, "a")
		require.NoError(t, err)
		require.Empty(t, got)
		require.NoError(t, r.PutStatus(ctx, status("a", 0, 3)))
		got, err = r.Statuses(ctx, "a")
		require.NoError(t, err)
		require.Len(t, got, 1)
	})

	t.Run("NATS restarted", func(t *testing.T) {
		server.Restart()
		require.Eventually(t, func() bool {
			got, err := r.Statuses(ctx, "a")
			return err == nil && len(got) == 0
		}, time.Minute, 20*time.Millisecond)
		require.NoError(t, r.PutStatus(ctx, status("a", 0, 4)))
		got, err := r.Statuses(ctx, "a")
		require.NoError(t, err)
		require.Len(t, got, 1)
	})
}

func TestOpenWaitsForNATS(t *testing.T) {
	leaks(t)
	server := natstest.New(t)
	_, js := natstest.Connect(t, server.URL())
	server.Stop()

	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := registry.Open(short, js)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	opened := make(chan error, 1)
	go func() {
		r, err := registry.Open(t.Context(), js)
		if err == nil {
			_, err = r.List(t.Context())
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("opened without NATS: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	server.Start()
	require.NoError(t, <-opened)
}

// TestBucketOfAnother: an administrator's settings are not an error and are kept.
func TestBucketOfAnother(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	_, js := natstest.Connect(t, natstest.Start(t))
	_, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: registry.PipelinesBucket, History: 5})
	require.NoError(t, err)
	r, err := registry.Open(ctx, js)
	require.NoError(t, err)
	_, err = r.Create(ctx, record("a", 1))
	require.NoError(t, err)
	kv, err := js.KeyValue(ctx, registry.PipelinesBucket)
	require.NoError(t, err)
	s, err := kv.Status(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 5, s.History())
}

func TestUnreadableRecord(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	r, js := open(t, natstest.Start(t))
	kv, err := js.KeyValue(ctx, registry.PipelinesBucket)
	require.NoError(t, err)
	_, err = kv.Put(ctx, "a", []byte("\xff\xff"))
	require.NoError(t, err)
	_, _, err = r.Get(ctx, "a")
	require.ErrorContains(t, err, `record of pipeline "a"`)
	require.NotErrorIs(t, err, registry.ErrNotFound)
}

func TestLatest(t *testing.T) {
	ctx := t.Context()
	r, js := open(t, natstest.Start(t))
	_, err := r.Latest(ctx, "a")
	require.ErrorIs(t, err, registry.ErrNotFound)
	rev, err := r.Create(ctx, record("a", 1))
	require.NoError(t, err)
	rev, err = r.Update(ctx, record("a", 2), rev)
	require.NoError(t, err)
	rec, err := r.Latest(ctx, "a")
	require.NoError(t, err)
	require.EqualValues(t, 2, rec.Generation)
	require.NoError(t, r.Delete(ctx, "a", rev))
	_, err = r.Latest(ctx, "a")
	require.ErrorIs(t, err, registry.ErrNotFound)
	require.NoError(t, js.DeleteKeyValue(ctx, registry.PipelinesBucket))
	_, err = r.Latest(ctx, "a")
	require.Error(t, err)
	require.NotErrorIs(t, err, registry.ErrNotFound, "whether there is one is not known")
}
