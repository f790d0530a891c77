package control

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestATroubleThatLastsIsToldNowAndThen: it is tried every second, and told once, every minute, and when it is over.
func TestATroubleThatLastsIsToldNowAndThen(t *testing.T) {
	var log bytes.Buffer
	m, err := newMetrics(nil)
	require.NoError(t, err)
	s := &Service{log: slog.New(slog.NewTextHandler(&log, nil)), metrics: m}
	lines := func() int { return strings.Count(log.String(), "\n") }
	away := errors.New("NATS is away")
	s.tell(t.Context(), "p", "failed", nil)
	require.Zero(t, lines(), "all is well")
	for range 100 {
		s.tell(t.Context(), "p", "failed", away)
	}
	require.Equal(t, 1, lines())
	s.tell(t.Context(), "q", "failed", away)
	require.Equal(t, 2, lines(), "another pipeline")
	s.failing.of["p"].told = time.Now().Add(-repeatAfter)
	for range 100 {
		s.tell(t.Context(), "p", "failed", away)
	}
	require.Equal(t, 3, lines())
	require.Contains(t, log.String(), "again=100")
	s.tell(t.Context(), "p", "failed", nil)
	s.tell(t.Context(), "p", "failed", nil)
	require.Equal(t, 4, lines())
	require.Contains(t, log.String(), "level=INFO msg=\"looked after again\" pipeline=p")
}
