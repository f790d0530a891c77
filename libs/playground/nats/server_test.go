package nats_test

import (
	"context"
	"net"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats"
	"sluice/libs/playground/nats/natstest"
)

func TestStreamsSurviveARestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := natstest.New(t)
	_, js := natstest.Connect(t, s.URL())
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "b"})
	require.NoError(t, err)
	// Larger than the server's own default of 1 MiB.
	_, err = kv.Put(ctx, "k", make([]byte, 3<<20))
	require.NoError(t, err)
	s.Restart()
	_, js = natstest.Connect(t, s.URL())
	kv, err = js.KeyValue(ctx, "b")
	require.NoError(t, err)
	e, err := kv.Get(ctx, "k")
	require.NoError(t, err)
	require.Len(t, e.Value(), 3<<20)
}

func TestInProcessNeedsNoSocket(t *testing.T) {
	s, err := nats.Open(nats.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	defer s.Close()
	require.Empty(t, s.URL())
	nc, err := natsgo.Connect("", s.InProcess())
	require.NoError(t, err)
	defer nc.Close()
	require.NoError(t, nc.FlushTimeout(time.Minute))
}

func TestOpenSaysThatThePortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = nats.Open(nats.Config{Dir: t.TempDir(), Listen: l.Addr().String()})
	require.ErrorContains(t, err, "address already in use")
}

func TestOpenRefusesABadAddress(t *testing.T) {
	for _, listen := range []string{"nonsense", "127.0.0.1:x", "127.0.0.1:70000"} {
		_, err := nats.Open(nats.Config{Dir: t.TempDir(), Listen: listen})
		require.ErrorContains(t, err, listen)
	}
}
