package service_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/service"
)

// stage is a service and a stage, api a service with an API.
type stage struct {
	*core
	drained atomic.Bool
}

type api struct {
	controlv1.UnimplementedPipelineServiceServer
	*core
}

// core is what both have.
type core struct {
	deps service.Deps
	stop func() // called when Run stops
}

func (e *core) Run(ctx context.Context) error {
	<-ctx.Done()
	if e.stop != nil {
		e.stop()
	}
	return ctx.Err()
}

func (*api) Get(_ context.Context, req *controlv1.GetRequest) (*controlv1.GetResponse, error) {
	switch req.Id {
	case "panic":
		panic("boom")
	case "timeout":
		return nil, fmt.Errorf("looking: %w", context.DeadlineExceeded)
	case "missing":
		return nil, fmt.Errorf("get: %w", status.Error(codes.NotFound, "no such pipeline"))
	}
	return &controlv1.GetResponse{Pipeline: &controlv1.PipelineRecord{Uid: req.Id}}, nil
}

func (e *stage) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (e *stage) Name() string { return "dedup" }
func (e *stage) Status(p string) []*stagev1.UnitStatus {
	return []*stagev1.UnitStatus{{Pipeline: p, Stage: "dedup", Owner: e.deps.Instance}}
}
func (e *stage) Drain(context.Context) error                     { e.drained.Store(true); return nil }
func (e *stage) Undrain()                                        { e.drained.Store(false) }
func (e *stage) Checkpoint(context.Context, string) (int, error) { return 2, nil }

type running struct {
	t      *testing.T
	addrs  service.Addresses
	core   *core
	stage  *stage
	ready  chan struct{}
	cancel context.CancelFunc
	err    chan error
	conn   *grpc.ClientConn
}

func start(t *testing.T, natsURL string, change func(*service.Config), e *core) *running {
	t.Helper()
	cfg := service.DefaultConfig("control")
	cfg.NATS, cfg.GRPC, cfg.HTTP = natsURL, "127.0.0.1:0", "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, core: e, stage: &stage{core: e}, ready: make(chan struct{}), cancel: cancel, err: make(chan error, 1)}
	listening := make(chan service.Addresses, 1)
	go func() {
		r.err <- service.Run(ctx, cfg, service.Options{
			Log:      slog.New(slog.DiscardHandler),
			OnListen: func(a service.Addresses) { listening <- a },
			OnReady:  func(service.Addresses) { close(r.ready) },
		}, service.Definition{
			Name: "control",
			GRPC: []*grpc.ServiceDesc{&controlv1.PipelineService_ServiceDesc},
			Build: func(ctx context.Context, d service.Deps) (service.Service, error) {
				// As the services do: wait for JetStream.
				for {
					if _, err := d.JS.AccountInfo(ctx); err == nil {
						break
					} else if ctx.Err() != nil {
						return nil, ctx.Err()
					}
				}
				c, err := d.Meter.Int64Counter("things")
				if err != nil {
					return nil, err
				}
				c.Add(ctx, 3)
				e.deps = d
				return &api{core: e}, nil
			},
		}, service.Definition{
			Name:  "dedup",
			Build: func(context.Context, service.Deps) (service.Service, error) { return r.stage, nil },
		})
	}()
	select {
	case r.addrs = <-listening:
	case err := <-r.err:
		cancel()
		require.NoError(t, err)
	}
	conn, err := grpc.NewClient(r.addrs.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	r.conn = conn
	t.Cleanup(func() { _ = conn.Close() })
	return r
}

func (r *running) stop() error {
	r.cancel()
	select {
	case err := <-r.err:
		return err
	case <-time.After(time.Minute):
		return errors.New("still running")
	}
}

func (r *running) get(path string) (int, string) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	resp, err := c.Get("http://" + r.addrs.HTTP + path)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, string(body)
}

func (r *running) health(service string) grpc_health_v1.HealthCheckResponse_ServingStatus {
	resp, err := grpc_health_v1.NewHealthClient(r.conn).Check(r.t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
	require.NoError(r.t, err)
	return resp.Status
}

func (r *running) waitReady() {
	r.t.Helper()
	select {
	case <-r.ready:
	case <-time.After(time.Minute):
		r.t.Fatal("not ready in time")
	}
}

func TestServesWhileNATSIsAwayAndRecovers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	srv := natstest.New(t)
	url := srv.URL()
	srv.Stop()
	r := start(t, url, nil, &core{})
	api := controlv1.NewPipelineServiceClient(r.conn)

	code, body := r.get("/healthz")
	require.Equal(t, 200, code, body)
	code, body = r.get("/readyz")
	require.Equal(t, 503, code)
	require.Contains(t, body, "NATS is not connected")
	require.Contains(t, body, "control is starting")
	require.Equal(t, grpc_health_v1.HealthCheckResponse_NOT_SERVING, r.health(""))
	_, err := api.Get(t.Context(), &controlv1.GetRequest{Id: "a"})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "waits for NATS")

	srv.Start()
	r.waitReady()
	code, body = r.get("/readyz")
	require.Equal(t, 200, code, body)
	require.Eventually(t, func() bool {
		return r.health("sluice.control.v1.PipelineService") == grpc_health_v1.HealthCheckResponse_SERVING
	}, time.Minute, 10*time.Millisecond)
	resp, err := api.Get(t.Context(), &controlv1.GetRequest{Id: "a"})
	require.NoError(t, err)
	require.Equal(t, "a", resp.Pipeline.Uid)

	srv.Stop()
	require.Eventually(t, func() bool { code, _ := r.get("/readyz"); return code == 503 }, time.Minute, 10*time.Millisecond)
	// A publish while disconnected fails at once instead of waiting in a buffer.
	require.Error(t, r.core.deps.NATS.Publish("x", nil))
	srv.Start()
	require.Eventually(t, func() bool { code, _ := r.get("/readyz"); return code == 200 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, r.stop())
	srv.Stop()
	_ = r.conn.Close()
}

func TestErrorsBecomeCodes(t *testing.T) {
	r := start(t, natstest.Start(t), nil, &core{})
	r.waitReady()
	api := controlv1.NewPipelineServiceClient(r.conn)
	for id, want := range map[string]codes.Code{"panic": codes.Internal, "timeout": codes.DeadlineExceeded, "missing": codes.NotFound} {
		_, err := api.Get(t.Context(), &controlv1.GetRequest{Id: id})
		require.Equal(t, want, status.Code(err), "%s: %v", id, err)
	}
	require.NoError(t, r.stop())
}

func TestStageServiceAndMetrics(t *testing.T) {
	r := start(t, natstest.Start(t), func(c *service.Config) { c.Name = "me" }, &core{})
	e := r.stage
	r.waitReady()
	client := stagev1.NewStageServiceClient(r.conn)
	st, err := client.GetStatus(t.Context(), &stagev1.GetStatusRequest{Pipeline: "p"})
	require.NoError(t, err)
	require.Equal(t, "me", st.Instance)
	require.Equal(t, "dedup", st.Stage)
	require.Len(t, st.Units, 1)
	require.Equal(t, "p", st.Units[0].Pipeline)
	_, err = client.Drain(t.Context(), &stagev1.DrainRequest{})
	require.NoError(t, err)
	require.True(t, e.drained.Load())
	st, err = client.GetStatus(t.Context(), &stagev1.GetStatusRequest{})
	require.NoError(t, err)
	require.True(t, st.Draining)
	_, err = client.Undrain(t.Context(), &stagev1.UndrainRequest{})
	require.NoError(t, err)
	require.False(t, e.drained.Load())
	cp, err := client.Checkpoint(t.Context(), &stagev1.CheckpointRequest{})
	require.NoError(t, err)
	require.EqualValues(t, 2, cp.Units)

	_, body := r.get("/metrics")
	for _, want := range []string{"things_total 3", "sluice_build_info{", "sluice_nats_connected 1", "go_goroutines", "process_cpu_seconds_total"} {
		require.Contains(t, body, want)
	}
	require.NoError(t, r.stop())
}

func TestDrainTimeoutIsAnError(t *testing.T) {
	release := make(chan struct{})
	r := start(t, natstest.Start(t), func(c *service.Config) { c.DrainTimeout = 50 * time.Millisecond },
		&core{stop: func() { <-release }})
	r.waitReady()
	require.ErrorIs(t, r.stop(), service.ErrDrainTimeout)
	close(release)
}

func TestServicesStopWhileNATSStillWorks(t *testing.T) {
	e := &core{}
	connected := false
	e.stop = func() { connected = e.deps.NATS.FlushTimeout(time.Minute) == nil }
	r := start(t, natstest.Start(t), nil, e)
	r.waitReady()
	require.NoError(t, r.stop())
	require.True(t, connected)
}

func TestTakenPortIsAPlainError(t *testing.T) {
	r := start(t, natstest.Start(t), nil, &core{})
	cfg := service.DefaultConfig("sink")
	cfg.GRPC = r.addrs.GRPC
	err := service.Run(t.Context(), cfg, service.Options{})
	require.ErrorContains(t, err, "address already in use")
	require.NoError(t, r.stop())
}

func TestExitCodes(t *testing.T) {
	def := service.Definition{Name: "sink", Build: func(context.Context, service.Deps) (service.Service, error) {
		return nil, errors.New("no")
	}}
	run := func(args ...string) int { return service.Execute(t.Context(), def, args, io.Discard, io.Discard) }
	require.Equal(t, service.ExitOK, run("--help"))
	require.Equal(t, service.ExitUsage, run("--nope"))
	require.Equal(t, service.ExitUsage, run("--name", "a b"))
	require.Equal(t, service.ExitUsage, run("--config", "/does/not/exist"))
	require.Equal(t, service.ExitFailure, run("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "error"))
}
