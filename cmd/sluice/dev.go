package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"

	"sluice/libs/service"
)

func devCommand() *cobra.Command {
	p := &playground{cfg: service.DefaultConfig("control"), listen: addresses{}}
	p.cfg.LogLevel = "warn"
	var keep bool
	var file string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a playground: all of Sluice with Kafka, ClickHouse and NATS in one process",
		Long: `Run a playground: all services of Sluice in one process, with a NATS, a broker that speaks Kafka's
protocol, and a real ClickHouse engine behind its native protocol. Topics are made when they are first
used. Nothing but loopback is listened on unless told otherwise.

The usual ports are taken when they are free, else others; what is printed, and written to the file of
--addresses once all is up, says which. Data is in a temporary directory that is removed at the end,
unless --keep or --dir is given. With --dir the data is there again at the next start.`,
		Args: noArgs,
	}
	fs := cmd.Flags()
	fs.BoolVar(&keep, "keep", false, "keep the temporary data directory at the end and say where it is")
	fs.StringVar(&p.dir, "dir", "", "data directory; it is kept")
	fs.StringVar(&file, "addresses", "", "file to write the addresses to, as JSON, once all is up")
	fs.StringVar(&p.kafka, "kafka", "", "host:port of a Kafka to use instead")
	fs.StringVar(&p.clickhouse, "clickhouse", "", "host:port of a ClickHouse to use instead")
	fs.StringVar(&p.nats, "nats", "", "URL of a NATS to use instead")
	fs.StringVar(&p.listen.Kafka, "listen-kafka", "", "host:port for the playground's Kafka (default 127.0.0.1:9092, or a free port)")
	fs.StringVar(&p.listen.ClickHouse, "listen-clickhouse", "", "host:port for the playground's ClickHouse (default 127.0.0.1:9000, or a free port)")
	fs.StringVar(&p.listen.NATS, "listen-nats", "", "host:port for the playground's NATS (default 127.0.0.1:4222, or a free port)")
	fs.StringVar(&p.listen.GRPC, "grpc", "", "host:port of the gRPC server (default 127.0.0.1:7070, or a free port)")
	fs.StringVar(&p.listen.HTTP, "http", "", "host:port of /healthz, /readyz, /metrics (default 127.0.0.1:7080, or a free port)")
	fs.StringVar(&p.cfg.LogLevel, "log-level", p.cfg.LogLevel, "debug, info, warn or error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p.progress = cmd.ErrOrStderr()
		p.listen = p.listen.or(friendly())
		if err := p.check(); err != nil {
			return err
		}
		if file != "" {
			// A file of an earlier run must not tell that this one is up.
			if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove the old addresses: %w", err)
			}
		}
		done, err := p.prepare(keep, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer done()
		return p.serve(cmd.Context(), file, cmd.OutOrStdout())
	}
	cmd.AddCommand(devKafkaCommand(), devClickHouseCommand(), devNATSCommand())
	return cmd
}

// serve runs the playground and says where it is. Without the address file that was asked for it
// would be of no use, so it ends then.
func (p *playground) serve(ctx context.Context, file string, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := p.run(ctx, func(a addresses) {
		if file != "" {
			if err := writeAddresses(file, a); err != nil {
				cancel(err)
				return
			}
		}
		printAddresses(out, a)
	})
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// or fills in what is empty.
func (a addresses) or(b addresses) addresses {
	pick := func(x, y string) string {
		if x != "" {
			return x
		}
		return y
	}
	return addresses{
		pick(a.Kafka, b.Kafka), pick(a.ClickHouse, b.ClickHouse), pick(a.NATS, b.NATS),
		pick(a.GRPC, b.GRPC), pick(a.HTTP, b.HTTP),
	}
}

// check reports every address that is none.
func (p *playground) check() error {
	var errs []error
	for _, f := range []struct{ flag, addr string }{
		{"kafka", p.kafka}, {"clickhouse", p.clickhouse},
		{"listen-kafka", p.listen.Kafka}, {"listen-clickhouse", p.listen.ClickHouse}, {"listen-nats", p.listen.NATS},
	} {
		if f.addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(f.addr); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %q: give host:port", f.flag, f.addr))
		}
	}
	cfg := p.cfg
	cfg.GRPC, cfg.HTTP = p.listen.GRPC, p.listen.HTTP
	if p.nats != "" {
		cfg.NATS = p.nats
	}
	if err := errors.Join(append(errs, cfg.Validate())...); err != nil {
		return usagef("%w", err)
	}
	return nil
}

// prepare makes the data directory and says what to do with it at the end.
func (p *playground) prepare(keep bool, say io.Writer) (done func(), err error) {
	if p.dir != "" {
		p.keepKafka = true
		return lockDir(p.dir)
	}
	if p.dir, err = os.MkdirTemp("", "sluice-dev-"); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	if keep {
		p.keepKafka = true
		return func() { fmt.Fprintf(say, "kept %s; go on with: sluice dev --dir %s\n", p.dir, p.dir) }, nil
	}
	return func() { _ = os.RemoveAll(p.dir) }, nil
}

func printAddresses(w io.Writer, a addresses) {
	chHost, chPort, _ := net.SplitHostPort(a.ClickHouse)
	prefix := ""
	if a.GRPC != "127.0.0.1:7070" {
		prefix = "--server " + a.GRPC + " "
	}
	fmt.Fprintf(w, `The playground is up; Ctrl-C ends it.

  Kafka       %[1]s
  ClickHouse  %[2]s
  NATS        %[3]s
  gRPC        %[4]s
  HTTP        http://%[5]s/readyz

Make a table:     clickhouse-client --host %[6]s --port %[7]s --query "CREATE TABLE user_events (event_id String, name String) \
                    ENGINE = MergeTree ORDER BY event_id SETTINGS non_replicated_deduplication_window = 1000"
Produce an event: echo '{"event_id":"1","name":"Ada"}' | kcat -P -b %[1]s -t user-events
  (or)            kafka-console-producer.sh --bootstrap-server %[1]s --topic user-events
Apply a pipeline: sluice %[8]sapply -f - <<'EOF'
                  id: user-events
                  source: {kafka: {brokers: ["%[1]s"], topic: user-events}}
                  dedup: {key: [event_id], window: 24h}
                  sink: {clickhouse: {addr: ["%[2]s"], table: user_events}}
                  EOF
Watch it:         sluice %[8]sstatus user-events --watch
The API:          grpcurl -plaintext %[4]s list
`, a.Kafka, a.ClickHouse, a.NATS, a.GRPC, a.HTTP, chHost, chPort, prefix)
}
