package service_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats/natstest"
	"sluice/libs/service"
)

// readier is a service that says what it lacks.
type readier struct {
	lacks atomic.Pointer[string]
}

func (r *readier) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (r *readier) Ready() error {
	if s := r.lacks.Load(); s != nil {
		return errors.New(*s)
	}
	return nil
}

// What a container's health check sees: the exit code, and in words what is missing.
func TestHealthcheck(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	check := func(args ...string) (int, string) {
		var stderr bytes.Buffer
		code := service.Execute(t.Context(), service.Definition{Name: "dedup"}, append([]string{"healthcheck"}, args...), &stderr, &stderr)
		return code, stderr.String()
	}
	code, said := check("--http", addr)
	require.Equal(t, service.ExitFailure, code, "nobody is there")
	require.Contains(t, said, "connection refused")

	svc := &readier{}
	cfg := service.DefaultConfig("dedup")
	cfg.GRPC, cfg.HTTP, cfg.NATS = "127.0.0.1:0", addr, natstest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- service.Run(ctx, cfg, service.Options{OnReady: func(service.Addresses) { close(ready) }}, service.Definition{
			Name: "dedup", Build: func(context.Context, service.Deps) (service.Service, error) { return svc, nil },
		})
	}()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()
	select {
	case <-ready:
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	code, said = check("--http", addr)
	require.Zero(t, code, said)
	require.Empty(t, said)

	reason := "no lanes yet"
	svc.lacks.Store(&reason)
	code, said = check("--http", addr)
	require.Equal(t, service.ExitFailure, code)
	require.Contains(t, said, reason)
	code, _ = check("--http", addr, "--live")
	require.Zero(t, code, "alive, though not ready")
	svc.lacks.Store(nil)

	// As in a container: the service listens on every address, and the environment or the file says so.
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	t.Setenv("SLUICE_HTTP", "0.0.0.0:"+port)
	code, said = check()
	require.Zero(t, code, said)
	require.NoError(t, os.Unsetenv("SLUICE_HTTP"))
	file := filepath.Join(t.TempDir(), "dedup.yaml")
	require.NoError(t, os.WriteFile(file, []byte("http: :"+port+"\ndrain_timeout: 5s\n"), 0o600))
	code, said = check("--config", file)
	require.Zero(t, code, said)

	for _, wrong := range []string{"nonsense", "127.0.0.1:0"} {
		code, said = check("--http", wrong)
		require.Equal(t, service.ExitUsage, code)
		require.Contains(t, said, wrong)
	}
	code, _ = check("--nonsense")
	require.Equal(t, service.ExitUsage, code)
}
