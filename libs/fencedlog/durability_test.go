package fencedlog

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	playground "sluice/libs/playground/nats"
)

// The configurations that are recommended are ones that the server takes, and say what the documents say.
func TestRecommendedConfigurations(t *testing.T) {
	single, err := server.ProcessConfigFile("../../deploy/nats/single.conf")
	require.NoError(t, err)
	require.True(t, single.SyncAlways)
	require.EqualValues(t, 8<<20, single.MaxPayload)
	require.True(t, single.JetStream)

	t.Setenv("NATS_NAME", "n1")
	cluster, err := server.ProcessConfigFile("../../deploy/nats/cluster.conf")
	require.NoError(t, err)
	require.True(t, cluster.SyncAlways, "as long as streams have one replica")
	require.Equal(t, "n1", cluster.ServerName)
	require.Len(t, cluster.Routes, 3)
	require.EqualValues(t, 8<<20, cluster.MaxPayload)
}

// A server that syncs always takes and keeps a log like any other; the cost is printed beside that of
// one that does not. Run with -v.
func TestSyncAlways(t *testing.T) {
	const lanes = 4
	cost := func(always bool, size, each int) time.Duration {
		ctx, dir := contextFor(t), t.TempDir()
		open := func() *playground.Server {
			s, err := playground.Open(playground.Config{Dir: dir, Listen: "127.0.0.1:0", SyncAlways: always})
			require.NoError(t, err)
			return s
		}
		s := open()
		js := connect(t, s.URL())
		require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
		w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0, 1, 2, 3}})
		require.NoError(t, err)
		began := time.Now()
		var appending sync.WaitGroup
		for lane := range lanes {
			appending.Go(func() {
				for i := range each {
					if _, err := w.Append(ctx, lane, fmt.Sprint(i), make([]byte, size)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		appending.Wait()
		took := time.Since(began)
		require.NoError(t, s.Close())
		s = open()
		defer s.Close()
		_, rec, err := Open(ctx, connect(t, s.URL()), testLog, "0", Options{Lanes: []int{0, 1, 2, 3}})
		require.NoError(t, err)
		for lane := range lanes {
			require.Equal(t, fmt.Sprint(each-1), rec.Last[lane].Position)
			require.Len(t, rec.Last[lane].Data, size)
		}
		return took
	}
	for _, size := range []int{4 << 10, 128 << 10} {
		for _, always := range []bool{false, true} {
			const each = 100
			took := cost(always, size, each)
			n := float64(lanes * each)
			t.Logf("sync always %-5v %4d kB: %6.0f appends/s, %5.0f MB/s", always, size>>10, n/took.Seconds(), n*float64(size)/1e6/took.Seconds())
		}
	}
}
