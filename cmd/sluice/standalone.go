package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	playnats "sluice/libs/playground/nats"
	"sluice/libs/service"
)

func standaloneCommand() *cobra.Command {
	cfg := service.DefaultConfig("control")
	cfg.NATS = ""
	var dir, natsListen string
	var sync bool
	cmd := &cobra.Command{
		Use:   "standalone --dir DIR",
		Short: "Run all of Sluice in one process, for production on one machine",
		Long: `Run control, ingestor, dedup, join and sink in one process, with NATS embedded unless --nats names one.
Everything that must survive is in DIR.

Every flag is also an environment variable (--drain-timeout: SLUICE_DRAIN_TIMEOUT) and a key of the
YAML file named by --config (drain_timeout). A flag wins over the environment, the environment over
the file.

What is acknowledged survives a kill of the process at any time. With --sync-always it survives the
loss of power too; without it the newest events may then have to be read from Kafka again.`,
		Args: noArgs,
	}
	fs := cmd.Flags()
	cfg.AddFlags(fs)
	fs.Lookup("nats").Usage = "URL of NATS; default: embedded, in DIR"
	fs.StringVar(&dir, "dir", "", "data directory; needed unless --nats is given")
	fs.StringVar(&natsListen, "nats-listen", "", "host:port that the embedded NATS listens on; default: none, in process only")
	fs.BoolVar(&sync, "sync-always", false, "embedded NATS: write through to the disk before anything is acknowledged")
	fs.String("config", "", "YAML file of these settings")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := service.Load(fs, os.LookupEnv); err != nil {
			return usagef("%w", err)
		}
		embedded := cfg.NATS == ""
		if embedded {
			cfg.NATS = "nats://embedded" // for logs; the connection is in process
		}
		var wrong error
		if embedded && dir == "" {
			wrong = errors.New("dir: give the data directory, or the URL of a NATS with --nats")
		}
		if err := errors.Join(wrong, cfg.Validate()); err != nil {
			return usagef("%w", err)
		}
		opts := service.Options{OnReady: func(a service.Addresses) {
			fmt.Fprintf(cmd.OutOrStdout(), "sluice is ready: gRPC %s, HTTP %s\n", a.GRPC, a.HTTP)
		}}
		if dir != "" {
			unlock, err := lockDir(dir)
			if err != nil {
				return err
			}
			defer unlock()
		}
		if embedded {
			srv, err := playnats.Open(playnats.Config{
				Dir: filepath.Join(dir, "nats"), Listen: natsListen, SyncAlways: sync, Log: cfg.Logger(),
			})
			if err != nil {
				return err
			}
			defer srv.Close()
			opts.NATSOptions = []nats.Option{srv.InProcess()}
		}
		return stopped(cmd.Context(), service.Run(cmd.Context(), cfg, opts, allServices(dir)...))
	}
	return cmd
}

// stopped: what was ended by a signal, in good order, has not failed.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
