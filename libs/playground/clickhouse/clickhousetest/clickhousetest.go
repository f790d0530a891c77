// Package clickhousetest gives tests a real ClickHouse: one engine per test process, shared by the tests that run at the
// same time, and a database of its own for every caller.
//
// Where the engine cannot be had (no npm, no network) the test is skipped with one plain line; with CI=true that is a
// failure.
package clickhousetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	chgo "github.com/ClickHouse/clickhouse-go/v2"

	"sluice/libs/playground/clickhouse"
)

// shared is the process's server. It runs while a test uses it, so that nothing is left when the tests have ended.
type shared struct {
	mu     sync.Mutex
	server *clickhouse.Server
	dir    string
	users  int
}

var process shared

func (s *shared) acquire() (*clickhouse.Server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		library, err := clickhouse.Library(context.Background(), os.Stderr)
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp("", "sluice-clickhouse-")
		if err != nil {
			return nil, err
		}
		server, err := clickhouse.Open(clickhouse.Config{Dir: dir, Library: library})
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		s.server, s.dir = server, dir
	}
	s.users++
	return s.server, nil
}

func (s *shared) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return nil
	}
	err := errors.Join(s.server.Close(), os.RemoveAll(s.dir))
	s.server = nil
	return err
}

var databases atomic.Int64

// Library is the path of the engine's library, or the end of the test where there is none.
func Library(t testing.TB) string {
	t.Helper()
	library, err := clickhouse.Library(context.Background(), os.Stderr)
	check(t, err)
	return library
}

// Start is the address of the process's ClickHouse. Its tables are shared with other tests: prefer StartDB.
func Start(t testing.TB) (addr string) {
	t.Helper()
	s, err := process.acquire()
	check(t, err)
	t.Cleanup(func() {
		if err := process.release(); err != nil {
			t.Errorf("stop ClickHouse: %v", err)
		}
	})
	return s.Addr()
}

// StartDB is the address of the process's ClickHouse and a new, empty database, dropped when the test ends.
func StartDB(t testing.TB) (addr, database string) {
	t.Helper()
	addr = Start(t)
	database = fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))
	exec(t, addr, "CREATE DATABASE "+database)
	t.Cleanup(func() { exec(t, addr, "DROP DATABASE IF EXISTS "+database+" SYNC") })
	return addr, database
}

func exec(t testing.TB, addr, query string) {
	t.Helper()
	conn, err := chgo.Open(&chgo.Options{Addr: []string{addr}})
	if err == nil {
		err = conn.Exec(context.Background(), query)
		_ = conn.Close()
	}
	if err != nil {
		t.Errorf("%s: %v", query, err)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, clickhouse.ErrUnavailable) && !strings.EqualFold(os.Getenv("CI"), "true"):
		t.Skipf("skipped: %v", err)
	default:
		t.Fatalf("start ClickHouse: %v", err)
	}
}
