package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
)

// Exit codes of the services.
const (
	ExitOK        = 0   // stopped by a signal, in good order
	ExitFailure   = 1   // a service failed, or did not stop within the drain timeout
	ExitUsage     = 2   // flags, environment or configuration file are wrong
	ExitSignalled = 130 // a second signal: stopped at once
)

// Main is the whole main function of a service: it does not return.
func Main(name string, build Build, apis ...*grpc.ServiceDesc) {
	os.Exit(Execute(context.Background(), Definition{Name: name, Build: build, GRPC: apis}, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is the user's to mend.
type usageError struct{ error }

// Execute runs the command line of one service and returns the exit code.
func Execute(ctx context.Context, def Definition, args []string, stdout, stderr io.Writer) int {
	cfg := DefaultConfig(def.Name)
	cmd := &cobra.Command{
		Use:   def.Name,
		Short: "The " + def.Name + " service of Sluice",
		Long: "The " + def.Name + ` service of Sluice.

Every flag is also an environment variable (--drain-timeout: SLUICE_DRAIN_TIMEOUT) and a key of the
YAML file named by --config (drain_timeout). A flag wins over the environment, the environment over
the file. The service waits for NATS, Kafka and ClickHouse as long as it takes; /readyz says for what.

Exit codes: 0 stopped by a signal in good order; 1 failed, or not stopped within the drain timeout;
2 wrong flags or configuration; 130 stopped at once by a second signal.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       Version(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := Load(cmd.Flags(), os.LookupEnv); err != nil {
				return usageError{err}
			}
			if err := cfg.Validate(); err != nil {
				return usageError{err}
			}
			ctx, stop := WithSignals(cmd.Context())
			defer stop()
			return Run(ctx, cfg, Options{}, def)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	cfg.AddFlags(cmd.Flags())
	cmd.Flags().String("config", "", "YAML file of these settings")
	if def.Flags != nil {
		def.Flags(cmd.Flags())
	}
	cmd.AddCommand(healthcheckCommand(def))
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %v\n", def.Name, err)
		return ExitUsage
	default:
		fmt.Fprintf(stderr, "%s: %v\n", def.Name, err)
		return ExitFailure
	}
}

// WithSignals returns a context that ends at the first SIGINT or SIGTERM; the second exits the
// process at once. stop gives the signals back.
func WithSignals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		select {
		case <-signals:
			cancel()
		case <-done:
			return
		}
		select {
		case <-signals:
			os.Exit(ExitSignalled)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-finished
		cancel()
	}
}
