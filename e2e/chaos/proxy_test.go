package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo answers what it gets, and counts it.
func echo(t *testing.T) (addr string, got *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	got = &atomic.Int64{}
	var all sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		buf := make([]byte, 1<<10)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			got.Add(int64(n))
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return l.Addr().String(), got
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

// roundTrip says "hello" and returns the error that came instead of the echo.
func roundTrip(conn net.Conn) error {
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 5))
	return err
}

func TestProxy(t *testing.T) {
	addr, got := echo(t)
	p, err := NewProxy("127.0.0.1:0", func() string { return addr })
	require.NoError(t, err)
	t.Cleanup(p.Close)

	conn := dial(t, p)
	small := p.Request(5)
	require.NoError(t, roundTrip(conn))
	<-small
	large := p.Request(100)
	require.NoError(t, roundTrip(conn))
	select {
	case <-large:
		t.Fatal("a small request was taken for a large one")
	default:
	}

	p.Cut()
	require.Error(t, roundTrip(conn))
	require.Error(t, roundTrip(dial(t, p)), "refused while cut")
	p.Heal()
	require.NoError(t, roundTrip(dial(t, p)))

	// The server gets it, the client hears nothing, not even after the end: its connection is closed.
	conn = dial(t, p)
	p.Mute()
	before := got.Load()
	_, err = conn.Write(make([]byte, 100))
	require.NoError(t, err)
	<-large
	require.Eventually(t, func() bool { return got.Load() == before+100 }, 2*time.Minute, time.Millisecond)
	p.Heal()
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Error(t, err)

	conn = dial(t, p)
	p.Freeze()
	before = got.Load()
	_, err = conn.Write([]byte("hello"))
	require.NoError(t, err)
	require.Never(t, func() bool { return got.Load() > before }, 50*time.Millisecond, 10*time.Millisecond)
	p.Heal()
	_, err = io.ReadFull(conn, make([]byte, 5))
	require.NoError(t, err)
}
