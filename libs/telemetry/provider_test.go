package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// TestNothingIsTracedUnlessAskedFor also counts what a batch then costs.
func TestNothingIsTracedUnlessAskedFor(t *testing.T) {
	for _, pairs := range [][]string{
		{},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1", "OTEL_SDK_DISABLED", "true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER", "none"},
	} {
		p, err := Open(t.Context(), "v1", "me", env(pairs...), slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		tracer, err := p.Tracer(t.Context(), "sink")
		require.NoError(t, err)
		require.False(t, Enabled(tracer))
		// What came in is handed on.
		ctx, span := tracer.Start(Under(t.Context(), Parse([]byte(example))), "x")
		require.False(t, span.IsRecording())
		require.Equal(t, example, string(Traceparent(span.SpanContext())))
		_ = ctx
		p.Shutdown(t.Context())
	}
	require.False(t, Enabled(nil))
}

func TestWrongVariablesAreNamed(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json", "OTEL_TRACES_SAMPLER": "often", "OTEL_TRACES_EXPORTER": "zipkin",
	} {
		_, err := Open(t.Context(), "v1", "me", env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1", name, value), slog.New(slog.DiscardHandler))
		require.ErrorContains(t, err, value)
	}
}

// TestACollectorThatIsAway costs one line and no time.
func TestACollectorThatIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+addr)
			t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "50")
			t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
			var log bytes.Buffer
			p, err := Open(t.Context(), "v1", "me",
				env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@"+addr, "OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
				slog.New(slog.NewTextHandler(&log, nil)))
			require.NoError(t, err)
			tracer, err := p.Tracer(t.Context(), "sink")
			require.NoError(t, err)
			require.True(t, Enabled(tracer))
			began := time.Now()
			for range 10_000 {
				_, span := tracer.Start(context.Background(), "x")
				span.End()
			}
			p.Shutdown(t.Context())
			require.Less(t, time.Since(began), 10*time.Second)
			require.Equal(t, 1, strings.Count(log.String(), "traces cannot be sent"), log.String())
			require.NotContains(t, log.String(), "secret")
		})
	}
}

func TestLinesWithinASpanNameIt(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(LogHandler(slog.NewTextHandler(&out, nil))).With("lane", 3)
	log.InfoContext(Under(t.Context(), Parse([]byte(example))), "inside")
	log.InfoContext(t.Context(), "outside")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Contains(t, lines[0], "lane=3 trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7")
	require.NotContains(t, lines[1], "trace_id")
}
