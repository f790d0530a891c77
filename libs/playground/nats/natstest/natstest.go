// Package natstest gives tests a real NATS server with JetStream in the process.
//
// Every server has its own directory and a free port, and is gone when the test ends.
package natstest

import (
	"strings"
	"testing"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats"
)

// Start runs a server for the test and returns its URL. For restarts use New.
func Start(t testing.TB) string {
	t.Helper()
	return New(t).URL()
}

// Server is a server that a test may stop and start again, on the same port and directory.
type Server struct {
	t    testing.TB
	dir  string
	addr string
	srv  *nats.Server // nil while stopped
}

// New runs a server for the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	s.Start()
	s.addr = strings.TrimPrefix(s.srv.URL(), "nats://")
	t.Cleanup(s.Stop)
	return s
}

// URL is the server's address; the same before and after a restart.
func (s *Server) URL() string { return "nats://" + s.addr }

// Addr is URL as host:port.
func (s *Server) Addr() string { return s.addr }

// Start starts the server after Stop; nothing when it runs.
func (s *Server) Start() {
	s.t.Helper()
	if s.srv != nil {
		return
	}
	srv, err := nats.Open(nats.Config{Dir: s.dir, Listen: s.addr})
	require.NoError(s.t, err)
	s.srv = srv
}

// Stop ends the server: clients lose their connections, streams on disk stay, streams in memory go.
func (s *Server) Stop() {
	if s.srv == nil {
		return
	}
	_ = s.srv.Close()
	s.srv = nil
}

// Restart is Stop and Start.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// Connect connects a client as the services do (reconnects for ever, no reconnect buffer); it is
// closed when the test ends.
func Connect(t testing.TB, url string, opts ...natsgo.Option) (*natsgo.Conn, jetstream.JetStream) {
	t.Helper()
	opts = append([]natsgo.Option{
		natsgo.MaxReconnects(-1),
		natsgo.ReconnectBufSize(-1),
		natsgo.RetryOnFailedConnect(true),
		natsgo.ReconnectWait(reconnectWait),
		natsgo.ReconnectJitter(reconnectWait, reconnectWait),
	}, opts...)
	nc, err := natsgo.Connect(url, opts...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}
