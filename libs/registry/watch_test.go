package registry_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/registry"
)

// watched runs Watch and hands out the pictures as id → generation.
func watched(t *testing.T, r *registry.Registry) <-chan map[string]uint64 {
	t.Helper()
	pictures := make(chan map[string]uint64, 100)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		ended <- r.Watch(ctx, func(all map[string]*controlv1.PipelineRecord) {
			picture := map[string]uint64{}
			for id, rec := range all {
				picture[id] = rec.Generation
			}
			pictures <- picture
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	return pictures
}

// until waits for a picture and fails when others follow it that differ.
func until(t *testing.T, pictures <-chan map[string]uint64, want map[string]uint64) {
	t.Helper()
	limit := time.After(time.Minute)
	var last map[string]uint64
	for {
		select {
		case last = <-pictures:
			if maps.Equal(last, want) {
				return
			}
		case <-limit:
			t.Fatalf("last picture %v, want %v", last, want)
		}
	}
}

func TestWatch(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	r, _ := open(t, natstest.Start(t))
	pictures := watched(t, r)
	until(t, pictures, map[string]uint64{})

	rev, err := r.Create(ctx, record("a", 1))
	require.NoError(t, err)
	until(t, pictures, map[string]uint64{"a": 1})
	// Told by the watcher, not by looking again: each of these comes just after a look, so that it would wait a second for
	// the next. A busy machine may delay many of them, not all.
	fastest, generation := time.Hour, uint64(1)
	for fastest > 500*time.Millisecond && generation < 30 {
		generation++
		start := time.Now()
		rev, err = r.Update(ctx, record("a", generation), rev)
		require.NoError(t, err)
		until(t, pictures, map[string]uint64{"a": generation})
		fastest = min(fastest, time.Since(start))
	}
	require.LessOrEqual(t, fastest, 500*time.Millisecond)
	_, err = r.Create(ctx, record("b", 1))
	require.NoError(t, err)
	until(t, pictures, map[string]uint64{"a": generation, "b": 1})
	require.NoError(t, r.Delete(ctx, "a", rev))
	until(t, pictures, map[string]uint64{"b": 1})

	late := watched(t, r)
	until(t, late, map[string]uint64{"b": 1})
}

func TestWatchOutlivesRestarts(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	server := natstest.New(t)
	r, _ := open(t, server.URL())
	pictures := watched(t, r)
	until(t, pictures, map[string]uint64{})
	want := map[string]uint64{}
	for _, id := range []string{"a", "b", "c"} {
		server.Restart()
		require.Eventually(t, func() bool {
			_, err := r.Create(ctx, record(id, 1))
			return err == nil || errors.Is(err, registry.ErrExists) // of an attempt whose answer was lost
		}, time.Minute, 20*time.Millisecond)
		want[id] = 1
		until(t, pictures, want)
	}
}

// TestWatchMissesNothingWhileCutOff: what happens behind the back of a cut or frozen connection is
// delivered once it is back.
func TestWatchMissesNothingWhileCutOff(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	server := natstest.New(t)
	proxy := natstest.NewProxy(t, server.Addr())
	far, _ := open(t, proxy.URL())
	near, _ := open(t, server.URL())
	pictures := watched(t, far)
	until(t, pictures, map[string]uint64{})

	proxy.Cut()
	rev, err := near.Create(ctx, record("a", 1))
	require.NoError(t, err)
	proxy.Mend()
	until(t, pictures, map[string]uint64{"a": 1})

	proxy.Freeze()
	rev, err = near.Update(ctx, record("a", 2), rev)
	require.NoError(t, err)
	proxy.Thaw()
	until(t, pictures, map[string]uint64{"a": 2})

	proxy.Cut()
	require.NoError(t, near.Delete(ctx, "a", rev))
	proxy.Mend()
	until(t, pictures, map[string]uint64{})
}

// TestWatchBucketMadeAnew: the bucket is removed and made anew behind the watcher's back, at the
// same sequence as before.
func TestWatchBucketMadeAnew(t *testing.T) {
	leaks(t)
	ctx := t.Context()
	r, js := open(t, natstest.Start(t))
	pictures := watched(t, r)
	_, err := r.Create(ctx, record("a", 1))
	require.NoError(t, err)
	until(t, pictures, map[string]uint64{"a": 1})
	require.NoError(t, js.DeleteKeyValue(ctx, registry.PipelinesBucket))
	until(t, pictures, map[string]uint64{})
	_, err = r.Create(ctx, record("b", 1))
	require.NoError(t, err)
	until(t, pictures, map[string]uint64{"b": 1})
}

func TestWatchEndsWithoutNATS(t *testing.T) {
	leaks(t)
	server := natstest.New(t)
	r, _ := open(t, server.URL())
	pictures := watched(t, r)
	until(t, pictures, map[string]uint64{})
	server.Stop()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, r.Watch(ctx, func(map[string]*controlv1.PipelineRecord) {}), context.DeadlineExceeded)
	require.Less(t, time.Since(start), time.Minute)
}
