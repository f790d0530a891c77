package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
)

// Config says where a Server keeps its tables and where it listens.
type Config struct {
	// Dir holds the tables. They are there again when a server is opened on it later.
	Dir string
	// Listen is HOST:PORT; port 0 takes a free one. Default 127.0.0.1:0.
	Listen string
	// Library is the path of libchdb.so. Default: found or fetched by Library.
	Library string
	// Log gets what goes wrong with connections. Default: nothing is logged.
	Log *slog.Logger
}

// Server is a ClickHouse: the engine in this process, behind the native protocol.
type Server struct {
	log      *slog.Logger
	listener net.Listener
	queries  registry
	spoolDir string // for inserts too large for memory

	stop  chan struct{} // closed by Close
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]*conn // guarded by mu
	next  uint64             // connection number, guarded by mu
}

// Open starts the engine and the server. One process has one engine: servers on the same Dir share it, another Dir is an
// error while one is open.
func Open(cfg Config) (*Server, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open the ClickHouse playground: Dir is missing")
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Library == "" {
		library, err := Library(context.Background(), io.Discard)
		if err != nil {
			return nil, err
		}
		cfg.Library = library
	}
	if err := process.acquire(cfg.Library, cfg.Dir); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		process.release()
		return nil, fmt.Errorf("listen for ClickHouse clients: %w", err)
	}
	s := &Server{log: cfg.Log, listener: listener, spoolDir: cfg.Dir, stop: make(chan struct{}), conns: map[net.Conn]*conn{}}
	s.wg.Go(s.accept)
	return s, nil
}

// Main runs a server until ctx ends: the whole of `sluice dev clickhouse`. ready gets the address.
func Main(ctx context.Context, cfg Config, progress io.Writer, ready func(addr string)) error {
	if cfg.Library == "" {
		library, err := Library(ctx, progress)
		if err != nil {
			return err
		}
		cfg.Library = library
	}
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(s.Addr())
	}
	<-ctx.Done()
	return s.Close()
}

// Addr is HOST:PORT of the server.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends all queries and connections and, if this was the last server, the engine. Inserts that were answered are on
// disk.
func (s *Server) Close() error {
	s.mu.Lock()
	select {
	case <-s.stop:
		s.mu.Unlock()
		return nil
	default:
	}
	close(s.stop)
	err := s.listener.Close()
	open := make([]*conn, 0, len(s.conns))
	for nc, c := range s.conns {
		_ = nc.Close()
		open = append(open, c)
	}
	s.mu.Unlock()

	var kill sync.WaitGroup
	for _, c := range open {
		kill.Go(c.abort)
	}
	kill.Wait()
	s.wg.Wait()
	process.release()
	return err
}

func (s *Server) accept() {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		select {
		case <-s.stop:
			s.mu.Unlock()
			_ = nc.Close()
			return
		default:
		}
		s.next++
		c := newConn(s, nc, "sluice-"+strconv.FormatUint(s.next, 10))
		s.conns[nc] = c
		s.wg.Go(func() {
			err := c.serve()
			_ = nc.Close()
			s.mu.Lock()
			delete(s.conns, nc)
			s.mu.Unlock()
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Debug("ClickHouse client gone", "client", nc.RemoteAddr().String(), "reason", err.Error())
			}
		})
		s.mu.Unlock()
	}
}
