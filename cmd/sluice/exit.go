package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sluice/libs/service"
)

// Exit codes. Scripts rely on them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitUnavailable = 4
	exitTimeout     = 5
	exitDifferent   = 6
	exitIncomplete  = 7
	exitInterrupted = 130
)

const exitCodesText = `Exit codes of sluice:

  0    done
  1    failed; the message says why. demo: the proof failed
  2    the command line is wrong, or the pipeline's specification was refused
  3    there is no such pipeline
  4    the control service cannot be reached, or cannot itself reach NATS, Kafka or ClickHouse
  5    not done within the time allowed (wait, trace)
  6    the table differs from what was written (verify)
  7    nothing differs, but not everything could be compared (verify); what became of the event is not
       known any more (trace)
  130  interrupted (Ctrl-C); standalone and dev stop in good order then and return 0
       unless a second signal comes
`

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesText}
}

// coded is an error with an exit code of its own.
type coded struct {
	code int
	err  error
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &coded{exitUsage, fmt.Errorf(format, args...)} }

// exitCode is the one place that turns an error into an exit code.
func exitCode(ctx context.Context, err error) int {
	var c *coded
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &c):
		return c.code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, service.ErrDrainTimeout):
		return exitFailure
	}
	// What cobra says about a command that does not exist has no type of its own.
	if text := err.Error(); strings.HasPrefix(text, "unknown command") || strings.HasPrefix(text, "required flag") {
		return exitUsage
	}
	st, ok := status.FromError(err)
	if !ok {
		return exitFailure
	}
	switch st.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition:
		return exitUsage
	case codes.NotFound:
		return exitNotFound
	case codes.Unavailable:
		return exitUnavailable
	case codes.DeadlineExceeded:
		return exitTimeout
	case codes.Canceled:
		if ctx.Err() != nil {
			return exitInterrupted
		}
	}
	return exitFailure
}

// printError says what went wrong in words: the code of a status is not for people.
func printError(w io.Writer, err error) {
	text := err.Error()
	if st, ok := status.FromError(err); ok {
		text = st.Message()
	}
	fmt.Fprintf(w, "sluice: %s\n", text)
}
