// Package telemetry makes the traces of a process: an OTLP exporter that the standard OTEL_… variables configure, the W3C
// trace context as it travels in Kafka's headers and in batches, and the names of the attributes.
//
// Guaranteed: without an endpoint nothing is traced, and what is left of tracing is a comparison or two for each batch.
// A collector that is slow or away costs spans, never events: spans are dropped once the exporter's queue is full, and the
// log says once that it is away and once that it is back. Spans are of batches and blocks, never of single events.
//
// Not guaranteed: that a span arrives. The trace state (W3C tracestate) and baggage are not passed on.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// The variables that are looked at here. The exporter reads the other OTEL_EXPORTER_OTLP_… itself (headers, certificate,
// timeout, compression), the SDK OTEL_TRACES_SAMPLER(_ARG), OTEL_BSP_…, OTEL_SPAN_…_LIMIT, OTEL_RESOURCE_ATTRIBUTES and
// OTEL_SERVICE_NAME.
const (
	envDisabled       = "OTEL_SDK_DISABLED"
	envExporter       = "OTEL_TRACES_EXPORTER"
	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	envTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	envSampler        = "OTEL_TRACES_SAMPLER"
)

// shutdownTimeout bounds how long the last spans may hold up the end of the process.
const shutdownTimeout = 2 * time.Second

// Provider makes the tracers of one process.
type Provider struct {
	processor sdktrace.SpanProcessor // nil: disabled
	version   string
	instance  string
}

// Open makes the provider as the environment says. Without an endpoint, or with OTEL_SDK_DISABLED=true or
// OTEL_TRACES_EXPORTER=none, its tracers do nothing. It does not connect: an exporter waits for its collector.
func Open(ctx context.Context, version, instance string, getenv func(string) string, log *slog.Logger) (*Provider, error) {
	p := &Provider{version: version, instance: instance}
	endpoint := cmp.Or(getenv(envTracesEndpoint), getenv(envEndpoint))
	if endpoint == "" || strings.EqualFold(getenv(envDisabled), "true") || getenv(envExporter) == "none" {
		return p, nil
	}
	if exporter := getenv(envExporter); exporter != "" && exporter != "otlp" {
		return nil, fmt.Errorf("%s=%q: use otlp or none", envExporter, exporter)
	}
	samplers := []string{"", "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"}
	if sampler := getenv(envSampler); !slices.Contains(samplers, sampler) {
		return nil, fmt.Errorf("%s=%q: use one of %s", envSampler, sampler, strings.Join(samplers[1:], ", "))
	}
	var client otlptrace.Client
	protocol := cmp.Or(getenv(envTracesProtocol), getenv(envProtocol))
	switch protocol {
	case "grpc":
		client = otlptracegrpc.NewClient()
	case "", "http/protobuf":
		client = otlptracehttp.NewClient()
	default:
		return nil, fmt.Errorf("%s=%q: use grpc or http/protobuf", envProtocol, protocol)
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("OTLP exporter: %w", err)
	}
	p.processor = sdktrace.NewBatchSpanProcessor(&quiet{SpanExporter: exporter, log: log})
	log.Info("tracing", "endpoint", redact(endpoint))
	return p, nil
}

// redact hides a user and password in an endpoint: it goes to the log.
func redact(endpoint string) string {
	if at := strings.LastIndexByte(endpoint, '@'); at >= 0 {
		scheme, _, _ := strings.Cut(endpoint, "://")
		return scheme + "://xxx@" + endpoint[at+1:]
	}
	return endpoint
}

// Tracer makes the tracer of one service of the process. Its spans carry service.name=sluice-<service>, unless
// OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say another.
func (p *Provider) Tracer(ctx context.Context, service string) (trace.Tracer, error) {
	if p.processor == nil {
		return noop.NewTracerProvider().Tracer(service), nil
	}
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", "sluice-"+service),
			attribute.String("service.namespace", "sluice"),
			attribute.String("service.version", p.version),
			attribute.String("service.instance.id", p.instance),
		),
		resource.WithFromEnv(), // last: it wins
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("trace resource: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSpanProcessor(p.processor))
	return provider.Tracer("sluice/"+service, trace.WithInstrumentationVersion(p.version)), nil
}

// Shutdown sends what waits, for a moment at most.
func (p *Provider) Shutdown(ctx context.Context) {
	if p.processor == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	// What cannot be sent by then is lost, and the exporter has said that the collector is away.
	_ = p.processor.Shutdown(ctx)
}

// Enabled tells whether a tracer records anything. A nil tracer does not.
func Enabled(t trace.Tracer) bool {
	if t == nil {
		return false
	}
	_, off := t.(noop.Tracer)
	return !off
}
