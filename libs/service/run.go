package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/telemetry"
)

// Options is what the program decides, not the user.
type Options struct {
	// NATSOptions are added to the connection's: the in-process server of standalone.
	NATSOptions []nats.Option
	// OnListen is called once, before anything is built, with the addresses that are served.
	OnListen func(Addresses)
	// OnReady is called once, the first time that everything is ready.
	OnReady func(Addresses)
	// Log; nil: as the configuration says, to standard error.
	Log *slog.Logger
}

// Addresses are the host:port that the process listens on.
type Addresses struct{ GRPC, HTTP string }

// ErrDrainTimeout: the services did not stop in time. Nothing is lost; others take over.
var ErrDrainTimeout = errors.New("not stopped within the drain timeout")

// readyPoll is how often readiness is looked at for grpc.health.v1 and OnReady.
const readyPoll = 100 * time.Millisecond

// Run serves the definitions in one process until ctx ends or one of them fails.
func Run(ctx context.Context, cfg Config, opts Options, defs ...Definition) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	log := opts.Log
	if log == nil {
		log = cfg.Logger()
	}
	p := &process{cfg: cfg, opts: opts, log: log.With("instance", cfg.Name), defs: defs}
	return p.run(ctx)
}

// process is one Run.
type process struct {
	cfg  Config
	opts Options
	log  *slog.Logger
	defs []Definition

	nc     *nats.Conn
	stages *stageServer
	late   []*late // one for each definition
	addrs  Addresses

	mu      sync.Mutex
	waiting []string  // guarded by mu: names of the services that are still being built
	readies []Readier // guarded by mu
	ending  bool      // guarded by mu: stopping, not ready any more
}

// run owns the order of start and stop. Start: listeners (a taken port is a plain error), NATS
// (never waited for), servers, services. Stop, the other way round: not ready, so that nobody sends
// more; services, while NATS and the servers still work for them; servers; NATS.
func (p *process) run(ctx context.Context) (err error) {
	grpcL, err := net.Listen("tcp", p.cfg.GRPC)
	if err != nil {
		return fmt.Errorf("gRPC server: %w", err)
	}
	defer grpcL.Close()
	httpL, err := net.Listen("tcp", p.cfg.HTTP)
	if err != nil {
		return fmt.Errorf("HTTP server: %w", err)
	}
	defer httpL.Close()
	p.addrs = Addresses{GRPC: grpcL.Addr().String(), HTTP: httpL.Addr().String()}

	if p.nc, err = connect(&p.cfg, p.log, p.opts.NATSOptions); err != nil {
		return err
	}
	defer p.nc.Close()
	js, err := jetstream.New(p.nc)
	if err != nil {
		return fmt.Errorf("JetStream: %w", err)
	}
	traces, err := telemetry.Open(ctx, Version(), p.cfg.Name, os.Getenv, p.log)
	if err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	defer traces.Shutdown(ctx)
	names := make([]string, len(p.defs))
	tracers := make(map[string]trace.Tracer, len(p.defs))
	for i, d := range p.defs {
		names[i] = d.Name
		if tracers[d.Name], err = traces.Tracer(ctx, d.Name); err != nil {
			return fmt.Errorf("tracing: %w", err)
		}
	}
	p.waiting = slices.Clone(names)
	label := "standalone"
	if len(names) == 1 {
		label = names[0]
	}
	reg, provider, err := newMetrics(label, p.nc)
	if err != nil {
		return err
	}
	defer func() { _ = provider.Shutdown(context.WithoutCancel(ctx)) }()

	p.stages = &stageServer{instance: p.cfg.Name}
	shell := provider.Meter("sluice")
	if err := observeUnits(shell, p.stages); err != nil {
		return err
	}
	if js, err = measure(js, shell); err != nil {
		return err
	}
	calls, err := newCalls(shell)
	if err != nil {
		return err
	}
	healthS := health.NewServer()
	grpcS := newServer(p.log, p.stages, healthS, calls)
	for _, d := range p.defs {
		l := &late{name: d.Name}
		for _, desc := range d.GRPC {
			l.register(grpcS, desc)
		}
		p.late = append(p.late, l)
	}
	p.setHealth(healthS, false)
	httpS := newHTTP(p.missing, living{reg, p.stages}, reg, p.log)

	servers, serversCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	servers.Go(func() error { return serve("gRPC", grpcS.Serve(grpcL)) })
	servers.Go(func() error { return serve("HTTP", httpS.Serve(httpL)) })
	watchCtx, stopWatch := context.WithCancel(serversCtx)
	servers.Go(func() error { p.watch(watchCtx, healthS); return nil })
	p.log.Info("listening", "grpc", p.addrs.GRPC, "http", p.addrs.HTTP, "version", Version())
	if p.opts.OnListen != nil {
		p.opts.OnListen(p.addrs)
	}

	err = p.services(ctx, serversCtx, func(name string) Deps {
		return Deps{
			Instance: p.cfg.Name, NATS: p.nc, JS: js,
			Log:    p.log.With("service", name),
			Meter:  provider.Meter("sluice/" + name),
			Tracer: tracers[name],

			KeepLogs: p.cfg.KeepLogs,
		}
	})
	stopWatch()
	healthS.Shutdown()
	stopServers(ctx, grpcS, httpS)
	return errors.Join(err, servers.Wait())
}

// services builds and runs the definitions and stops them when ctx ends or a server fails.
func (p *process) services(ctx, serversCtx context.Context, deps func(string) Deps) error {
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	// A failed server ends the services like a signal does; its error comes from the servers' group.
	defer context.AfterFunc(serversCtx, cancel)()
	defer context.AfterFunc(work, func() {
		p.mu.Lock()
		p.ending = true
		p.mu.Unlock()
	})()
	g, gctx := errgroup.WithContext(work)
	for i, d := range p.defs {
		g.Go(func() error {
			svc, err := d.Build(gctx, deps(d.Name))
			if err != nil {
				if gctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("start %s: %w", d.Name, err)
			}
			if err := p.built(i, svc); err != nil {
				return err
			}
			if err := svc.Run(gctx); err != nil && gctx.Err() == nil {
				return fmt.Errorf("%s: %w", d.Name, err)
			} else if err != nil && !errors.Is(err, context.Canceled) {
				p.log.Warn("stopped with an error", "service", d.Name, "error", err)
			}
			return nil
		})
	}
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return err
	case <-gctx.Done():
	}
	// From here the goroutine above is given up only when the process is about to exit.
	p.log.Info("stopping", "within", p.cfg.DrainTimeout)
	timeout := time.NewTimer(p.cfg.DrainTimeout)
	defer timeout.Stop()
	select {
	case err := <-done:
		return err
	case <-timeout.C:
		return fmt.Errorf("%w of %s", ErrDrainTimeout, p.cfg.DrainTimeout)
	}
}

func (p *process) built(i int, svc Service) error {
	for _, desc := range p.defs[i].GRPC {
		if want := reflect.TypeOf(desc.HandlerType).Elem(); !reflect.TypeOf(svc).Implements(want) {
			return fmt.Errorf("start %s: %T does not implement %s", p.defs[i].Name, svc, want)
		}
	}
	p.late[i].set(svc)
	if st, ok := svc.(Stage); ok {
		p.stages.add(st)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := p.defs[i].Name
	p.waiting = slices.DeleteFunc(p.waiting, func(n string) bool { return n == name })
	if r, ok := svc.(Readier); ok {
		p.readies = append(p.readies, r)
	}
	return nil
}

// missing says what keeps the process from working; nothing when it is ready.
func (p *process) missing() []string {
	p.mu.Lock()
	readies := slices.Clone(p.readies)
	var out []string
	if p.ending {
		out = append(out, "stopping")
	}
	waiting := slices.Clone(p.waiting)
	p.mu.Unlock()
	if !p.nc.IsConnected() {
		reason := fmt.Sprintf("NATS is not connected (%s)", redactURL(p.cfg.NATS))
		if err := p.nc.LastError(); err != nil {
			reason += ": " + err.Error()
		}
		out = append(out, reason)
	}
	for _, name := range waiting {
		out = append(out, name+" is starting")
	}
	for _, r := range readies {
		if err := r.Ready(); err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}

// watch carries readiness over to grpc.health.v1.
func (p *process) watch(ctx context.Context, h *health.Server) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	announced := false
	for {
		ready := len(p.missing()) == 0
		p.setHealth(h, ready)
		if ready && !announced {
			announced = true
			p.log.Info("ready")
			if p.opts.OnReady != nil {
				p.opts.OnReady(p.addrs)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *process) setHealth(h *health.Server, ready bool) {
	state := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if ready {
		state = grpc_health_v1.HealthCheckResponse_SERVING
	}
	h.SetServingStatus("", state)
	h.SetServingStatus(stagev1.StageService_ServiceDesc.ServiceName, state)
	for _, d := range p.defs {
		for _, desc := range d.GRPC {
			h.SetServingStatus(desc.ServiceName, state)
		}
	}
}

// serve: a server that was told to stop has not failed.
func serve(what string, err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return fmt.Errorf("%s server: %w", what, err)
}

// stopServers lets calls in hand end, but not for long: a Watch has no end of its own.
func stopServers(ctx context.Context, g *grpc.Server, h *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, g.Stop)()
	g.GracefulStop()
	if err := h.Shutdown(ctx); err != nil {
		_ = h.Close()
	}
}
