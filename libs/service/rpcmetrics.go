package service

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// callBounds are the buckets of calls in seconds: an answer from memory, one that asks NATS, one that reads Kafka or the table.
var callBounds = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 30, 60, 300}

// calls measures the calls of the gRPC server, by OpenTelemetry's conventions for RPC. Methods are those that are registered, codes
// gRPC's: the labels are bounded. A stream counts when it ends.
type calls struct{ duration metric.Float64Histogram }

func newCalls(m metric.Meter) (*calls, error) {
	duration, err := m.Float64Histogram("rpc.server.call.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to answer a gRPC call, by method and code."), metric.WithExplicitBucketBoundaries(callBounds...))
	if err != nil {
		return nil, fmt.Errorf("make the metrics: %w", err)
	}
	return &calls{duration}, nil
}

func (c *calls) done(ctx context.Context, method string, began time.Time, err error) {
	c.duration.Record(ctx, time.Since(began).Seconds(), metric.WithAttributes(
		attribute.String("rpc.system.name", "grpc"), attribute.String("rpc.method", strings.TrimPrefix(method, "/")),
		attribute.String("rpc.response.status_code", statusName(err))))
}

// statusName is a code as gRPC writes it: NOT_FOUND.
func statusName(err error) string {
	var out strings.Builder
	for i, r := range status.Code(err).String() {
		if i > 0 && 'A' <= r && r <= 'Z' && out.String() != "O" { // OK is one word
			out.WriteByte('_')
		}
		out.WriteRune(r)
	}
	return strings.ToUpper(out.String())
}

func (c *calls) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	defer func() { c.done(ctx, info.FullMethod, began, err) }()
	return next(ctx, req)
}

func (c *calls) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	began := time.Now()
	defer func() { c.done(ss.Context(), info.FullMethod, began, err) }()
	return next(srv, ss)
}
