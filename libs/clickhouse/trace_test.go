package clickhouse

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	controlv1 "sluice/gen/sluice/control/v1"
)

// overheard is a way to a server on which all that the client says is kept.
func overheard(t *testing.T, server string) (addr string, said func() []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var (
		mu     sync.Mutex
		heard  bytes.Buffer
		copies sync.WaitGroup
	)
	copies.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			copies.Go(func() {
				_, _ = io.Copy(io.MultiWriter(upstream, writerFunc(func(p []byte) (int, error) {
					mu.Lock()
					defer mu.Unlock()
					return heard.Write(p)
				})), client)
				_ = upstream.Close()
			})
			copies.Go(func() {
				_, _ = io.Copy(client, upstream)
				_ = client.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		copies.Wait()
	})
	return l.Addr().String(), func() []byte {
		mu.Lock()
		defer mu.Unlock()
		return bytes.Clone(heard.Bytes())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestTheServerIsToldTheTrace: the query of an insert carries the trace context that its caller is in, from which a server makes
// the spans of system.opentelemetry_span_log. chDB keeps no such log, so what is looked at is what the server is sent.
func TestTheServerIsToldTheTrace(t *testing.T) {
	sink := engine(t, "t", windowed)
	addr, said := overheard(t, sink.GetAddr()[0])
	in := inserter(t, &controlv1.ClickHouseSink{Addr: []string{addr}, Database: sink.Database, Table: sink.Table})
	defer in.Close()
	within := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3}, SpanID: trace.SpanID{4, 5, 6}, TraceFlags: trace.FlagsSampled,
	})
	before := 0
	for _, want := range []trace.SpanContext{within, {}} {
		ctx := trace.ContextWithSpanContext(context.Background(), want)
		require.NoError(t, in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(before, 10), Token: "a", QueryID: "q"}))
		r := proto.NewReader(bytes.NewReader(said()[before:]))
		if before == 0 {
			skipHello(t, r)
		}
		code, err := r.UVarInt()
		require.NoError(t, err)
		require.Equal(t, proto.ClientCodeQuery, proto.ClientCode(code))
		var query proto.Query
		require.NoError(t, query.DecodeAware(r, revision))
		require.Equal(t, "q", query.ID)
		require.Equal(t, want.TraceID(), query.Info.Span.TraceID())
		require.Equal(t, want.SpanID(), query.Info.Span.SpanID())
		require.Equal(t, want.IsSampled(), query.Info.Span.IsSampled())
		before = len(said())
	}
	require.Equal(t, "10/10", counted(t, sink), "the same token in another trace is the same block")
}

func skipHello(t *testing.T, r *proto.Reader) {
	t.Helper()
	code, err := r.UVarInt()
	require.NoError(t, err)
	require.Equal(t, proto.ClientCodeHello, proto.ClientCode(code))
	var hello proto.ClientHello
	require.NoError(t, hello.Decode(r))
}
