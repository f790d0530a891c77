package control_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/nats/natstest"
)

// NATS that restarts is UNAVAILABLE, by which clients know that it is worth asking again; not an error of the service's own.
func TestStatusWhileNATSRestarts(t *testing.T) {
	var srv *natstest.Server
	s := &site{plant: newPlantOn(t, func() string {
		srv = natstest.New(t)
		return srv.URL()
	})}
	s.recorded()
	stop := make(chan struct{})
	var asking sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{} // guarded by mu
	for range 8 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := s.client.Status(ctx, &controlv1.StatusRequest{Id: "orders"})
				late := ctx.Err() != nil
				cancel()
				if err != nil && status.Code(err) != codes.Unavailable && !late {
					mu.Lock()
					seen[err.Error()] = true
					mu.Unlock()
				}
			}
		})
	}
	for range 10 {
		srv.Restart()
		time.Sleep(300 * time.Millisecond)
	}
	close(stop)
	asking.Wait()
	require.Empty(t, seen)
	require.Eventually(t, func() bool {
		_, err := s.client.Status(t.Context(), &controlv1.StatusRequest{Id: "orders"})
		return err == nil
	}, 20*time.Second, 100*time.Millisecond)
}

// recorded stores a record by hand: there is no table.
func (s *site) recorded() {
	s.t.Helper()
	s.topic("orders", 1)
	p := parse(s.t, orders, "KAFKA", s.kafka, "CH", "127.0.0.1:1", "DB", "d")
	_, err := s.registry.Create(s.t.Context(), &controlv1.PipelineRecord{Spec: p, Uid: "u", Generation: 1, Schemas: []*controlv1.Schema{{Revision: 1}}, Desired: controlv1.DesiredState_RUNNING})
	require.NoError(s.t, err)
}
