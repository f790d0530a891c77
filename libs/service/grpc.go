package service

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync/atomic"

	"buf.build/go/protovalidate"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/registry"
)

// maxMessage bounds a request. Specs and dead letters of some megabytes must pass.
const maxMessage = 16 << 20

func newServer(log *slog.Logger, stages *stageServer, h *health.Server, c *calls) *grpc.Server {
	s := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ChainUnaryInterceptor(c.unary, unaryErrors(log)),
		grpc.ChainStreamInterceptor(c.stream, streamErrors(log)),
	)
	stagev1.RegisterStageServiceServer(s, stages)
	grpc_health_v1.RegisterHealthServer(s, h)
	reflection.Register(s)
	return s
}

// Coder is an error that knows its gRPC code.
type Coder interface{ Code() codes.Code }

// ToStatus turns an error into what a client gets. It is the one place where codes are decided.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		// A status, or wraps one: its code stays, and the text of what wraps it.
		return status.Convert(err).Err()
	}
	return status.Error(code(err), registry.Reason(err.Error()))
}

func code(err error) codes.Code {
	var c Coder
	var invalid *protovalidate.ValidationError
	var answer *jetstream.APIError
	switch {
	case errors.As(err, &c):
		return c.Code()
	case errors.As(err, &invalid):
		return codes.InvalidArgument
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return codes.DeadlineExceeded
	case errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrDisconnected),
		errors.Is(err, nats.ErrReconnectBufExceeded), // what a publish says while disconnected
		errors.Is(err, jetstream.ErrNoStreamResponse),
		errors.Is(err, nats.ErrStaleConnection),
		errors.Is(err, jetstream.ErrJetStreamNotEnabled),
		errors.As(err, &answer) && answer.Code == http.StatusServiceUnavailable: // a server that is coming or going, or has no leader
		return codes.Unavailable
	default:
		return codes.Internal
	}
}

func unaryErrors(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		defer func() { err = finish(log, info.FullMethod, recover(), err) }()
		return next(ctx, req)
	}
}

func streamErrors(log *slog.Logger) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
		defer func() { err = finish(log, info.FullMethod, recover(), err) }()
		return next(srv, ss)
	}
}

// finish logs what is the server's own fault: nobody else sees it with its cause.
func finish(log *slog.Logger, method string, panicked any, err error) error {
	if panicked != nil {
		log.Error("panic in a call", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		return status.Errorf(codes.Internal, "%s: panic: %v", method, panicked)
	}
	err = ToStatus(err)
	if c := status.Code(err); c == codes.Internal || c == codes.Unknown {
		log.Error("call failed", "method", method, "error", err)
	}
	return err
}

// late is the implementation of an API that is registered before it exists: gRPC wants all
// registrations before it serves, and a service is built only once NATS has answered.
type late struct {
	name string
	impl atomic.Pointer[any]
}

// register adds desc to s. Until set, calls are answered UNAVAILABLE.
func (l *late) register(s *grpc.Server, desc *grpc.ServiceDesc) {
	d := *desc
	d.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		d.Methods[i] = grpc.MethodDesc{MethodName: m.MethodName, Handler: func(_ any, ctx context.Context, dec func(any) error, ic grpc.UnaryServerInterceptor) (any, error) {
			impl, err := l.get()
			if err != nil {
				return nil, err
			}
			return m.Handler(impl, ctx, dec, ic)
		}}
	}
	d.Streams = make([]grpc.StreamDesc, len(desc.Streams))
	for i, sd := range desc.Streams {
		d.Streams[i] = sd
		d.Streams[i].Handler = func(_ any, ss grpc.ServerStream) error {
			impl, err := l.get()
			if err != nil {
				return err
			}
			return sd.Handler(impl, ss)
		}
	}
	s.RegisterService(&d, nil)
}

func (l *late) set(impl any) { l.impl.Store(&impl) }

func (l *late) get() (any, error) {
	if p := l.impl.Load(); p != nil {
		return *p, nil
	}
	return nil, status.Errorf(codes.Unavailable, "%s is starting: it waits for NATS", l.name)
}
