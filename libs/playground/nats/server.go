// Package nats runs a NATS server with JetStream inside the process: for `sluice dev`,
// `sluice standalone` and tests.
//
// Guaranteed: when Open returns, JetStream answers; what was acknowledged is in Dir and is there
// again after Close and Open, and after a kill of the process. With SyncAlways it also survives
// the loss of power; without it the newest part of a stream may then be gone (fencedlog detects
// that).
//
// Not guaranteed: replication. One server is one copy.
package nats

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// DefaultMaxPayload is the largest message that the server takes, in bytes. Batches are far
// smaller; single events of some megabytes must fit as well.
const DefaultMaxPayload = 8 << 20

// startTimeout bounds the recovery of the streams at start. A large store on a slow disk takes
// its time, so it is generous.
const startTimeout = 2 * time.Minute

// Config says how the server runs.
type Config struct {
	// Dir holds the streams. It is made when missing.
	Dir string
	// Listen is host:port; port 0 takes a free one. Empty: no TCP at all, only InProcess.
	Listen string
	// MaxPayload in bytes; 0 is DefaultMaxPayload.
	MaxPayload int
	// SyncAlways makes every acknowledged message durable against power loss, at the price of one
	// fsync a message. Default: the server syncs every two minutes.
	SyncAlways bool
	// Log takes what the server says; nil: nothing.
	Log *slog.Logger
}

// Server is a running server. It is owned by who opened it and ended with Close.
type Server struct {
	srv    *server.Server
	listen bool
}

// Open starts the server and waits until JetStream is ready.
func Open(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("nats server: no directory given")
	}
	opts := &server.Options{
		ServerName: "sluice",
		JetStream:  true,
		StoreDir:   cfg.Dir,
		MaxPayload: int32(DefaultMaxPayload),
		// The limit is on what waits for one client to take it. A client that is slower than this
		// is cut off and comes again; batches are large, so the default is kept explicit.
		MaxPending: 128 << 20,
		NoSigs:     true,
		DontListen: cfg.Listen == "",
		SyncAlways: cfg.SyncAlways,
	}
	if cfg.MaxPayload > 0 {
		opts.MaxPayload = int32(cfg.MaxPayload)
	}
	if cfg.Listen != "" {
		host, port, err := splitListen(cfg.Listen)
		if err != nil {
			return nil, fmt.Errorf("nats server: listen address %q: %w", cfg.Listen, err)
		}
		opts.Host, opts.Port = host, port
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("nats server: %w", err)
	}
	fatal := make(chan string, 1)
	srv.SetLoggerV2(&logger{log: cfg.Log, fatal: fatal}, false, false, false)
	srv.Start()
	if err := ready(srv, fatal); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("nats server in %s: %w", cfg.Dir, err)
	}
	return &Server{srv: srv, listen: cfg.Listen != ""}, nil
}

// ready waits for the server; a fatal log line (port taken, store unreadable) ends the wait at once.
func ready(srv *server.Server, fatal <-chan string) error {
	deadline := time.Now().Add(startTimeout)
	for {
		up := srv.ReadyForConnections(50 * time.Millisecond)
		select {
		case msg := <-fatal:
			return errors.New(msg)
		default:
		}
		if up && srv.JetStreamEnabled() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after %s", startTimeout)
		}
	}
}

func splitListen(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not a number from 0 to 65535", p)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// URL is where clients reach the server; empty when it does not listen.
func (s *Server) URL() string {
	if !s.listen {
		return ""
	}
	return "nats://" + s.Addr()
}

// Addr is URL as host:port.
func (s *Server) Addr() string {
	addr, ok := s.srv.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	if addr.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(addr.Port))
	}
	return addr.String()
}

// InProcess makes a client connect through memory instead of a socket.
func (s *Server) InProcess() nats.Option { return nats.InProcessServer(s.srv) }

// Close stops the server in good order and returns when its files are closed.
func (s *Server) Close() error {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
	return nil
}
