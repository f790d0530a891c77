package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice/libs/registry"
	"sluice/libs/spec"
)

// coded is an error that knows its gRPC code; the interceptor of the service shell asks for it.
type coded struct {
	code codes.Code
	err  error
}

func (e *coded) Error() string    { return e.err.Error() }
func (e *coded) Unwrap() error    { return e.err }
func (e *coded) Code() codes.Code { return e.code }

func codef(code codes.Code, format string, args ...any) error {
	return &coded{code, fmt.Errorf(format, args...)}
}

// stored gives the errors of the registry and of NATS their codes.
func stored(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, registry.ErrNotFound):
		return &coded{codes.NotFound, err}
	case errors.Is(err, registry.ErrExists):
		return &coded{codes.AlreadyExists, err}
	case errors.Is(err, registry.ErrConflict):
		return &coded{codes.Aborted, err}
	case ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		// Not the caller's deadline, but ours for one exchange with NATS, or NATS' client's own.
		return codef(codes.Unavailable, "NATS does not answer: %w", err)
	}
	return err // what is left the interceptor knows
}

// invalid is a specification that cannot work: INVALID_ARGUMENT with every problem, as text and as
// google.rpc.BadRequest.
type invalid struct {
	problems []spec.Problem
}

func (e *invalid) Error() string { return (&spec.Error{Problems: e.problems}).Error() }

// GRPCStatus makes the status that clients see.
func (e *invalid) GRPCStatus() *status.Status {
	details := &errdetails.BadRequest{}
	for _, p := range e.problems {
		description := p
		description.Field = ""
		details.FieldViolations = append(details.FieldViolations,
			&errdetails.BadRequest_FieldViolation{Field: p.Field, Description: description.String()})
	}
	s := status.New(codes.InvalidArgument, e.Error())
	if with, err := s.WithDetails(details); err == nil {
		return with
	}
	return s
}

// unchangeable is an update that the pipeline's state would not survive: FAILED_PRECONDITION.
type unchangeable struct {
	problems []spec.Problem
}

func (e *unchangeable) Error() string { return (&spec.Error{Problems: e.problems}).Error() }

// GRPCStatus makes the status that clients see.
func (e *unchangeable) GRPCStatus() *status.Status {
	details := &errdetails.PreconditionFailure{}
	for _, p := range e.problems {
		description := p
		description.Field = ""
		details.Violations = append(details.Violations,
			&errdetails.PreconditionFailure_Violation{Type: "UPDATE", Subject: p.Field, Description: description.String()})
	}
	s := status.New(codes.FailedPrecondition, e.Error())
	if with, err := s.WithDetails(details); err == nil {
		return with
	}
	return s
}

// verdict is the error of a check: what is wrong with the specification comes first, with what could
// not be asked behind it; nothing but unreachable servers is UNAVAILABLE.
func verdict(problems []spec.Problem, unreachable []string) error {
	if len(problems) > 0 {
		for _, u := range unreachable {
			problems = append(problems, spec.Problem{What: u})
		}
		return &invalid{problems}
	}
	if len(unreachable) > 0 {
		return codef(codes.Unavailable, "%s", strings.Join(unreachable, "\n"))
	}
	return nil
}
