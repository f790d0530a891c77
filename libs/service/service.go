// Package service is the shell of every Sluice process: configuration, logs, the NATS connection,
// the gRPC server (the service's own API, StageService, grpc.health.v1, reflection), the HTTP
// endpoints /healthz /readyz /metrics, and an orderly stop.
//
// Guaranteed: the servers answer from the start on, also while NATS is away or the service is still
// being built; a process never ends because NATS is down; readiness says in words what is missing;
// SIGTERM and SIGINT stop in good order within the drain timeout, a second signal at once.
//
// Not guaranteed: encryption or authentication of the gRPC and HTTP ports. They listen on loopback
// unless told otherwise.
package service

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	stagev1 "sluice/gen/sluice/stage/v1"
)

// Deps is what the shell gives a service. All of it outlives the service's Run.
type Deps struct {
	// Instance is the process's name: unique among the live processes, and one token of a NATS subject.
	Instance string
	// NATS reconnects for ever. While disconnected a publish fails at once, nothing is buffered.
	NATS *nats.Conn
	JS   jetstream.JetStream
	Log  *slog.Logger
	// Meter is of the service's own name; its instruments appear under /metrics.
	Meter metric.Meter
	// Tracer is of the service's own name. It does nothing unless the environment names a collector; see package telemetry.
	Tracer trace.Tracer
	// KeepLogs is how long what nobody needs any more stays in the logs.
	KeepLogs time.Duration
}

// Service does the work. It may also be a Stage, and a Readier.
type Service interface {
	// Run blocks until ctx ends, then stops in good order and returns. An error that is not the end
	// of ctx ends the process: waiting for Kafka, NATS or ClickHouse is not an error.
	Run(ctx context.Context) error
}

// Stage is what StageService shows and steers. All methods may be called at any time from any goroutine.
type Stage interface {
	// Name is the stage: ingest, dedup, join or sink.
	Name() string
	// Status returns the units that this instance owns, of one pipeline or, with "", of all.
	Status(pipeline string) []*stagev1.UnitStatus
	// Drain gives up all units in good order and takes none until Undrain. It returns once nothing is owned.
	Drain(ctx context.Context) error
	Undrain()
	// Checkpoint makes the positions of the owned units durable now and says how many.
	Checkpoint(ctx context.Context, pipeline string) (int, error)
}

// Knower is a stage that knows which pipelines there are.
type Knower interface {
	// Knows tells whether there is such a pipeline, whoever has its units. It is true while that is not known yet.
	Knows(pipeline string) bool
}

// Readier is a service that has something to add to /readyz.
type Readier interface {
	// Ready returns nil, or what is missing.
	Ready() error
}

// Build makes the service. It may wait for JetStream: the servers are already up. It returns when
// ctx ends. The service must implement every interface of the definition's GRPC.
type Build func(ctx context.Context, d Deps) (Service, error)

// Definition describes a service to Main and Run.
type Definition struct {
	// Name as in the name of the binary: ingestor, dedup, sink, control.
	Name string
	// Build is called once.
	Build Build
	// GRPC lists the service's own gRPC APIs. Calls are answered UNAVAILABLE until Build has returned.
	GRPC []*grpc.ServiceDesc
	// Flags adds settings of the service's own; each is a flag, an environment variable and a key of
	// the file like the shell's. May be nil.
	Flags func(*pflag.FlagSet)
}
