package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"sluice/libs/playground/kafka"
	playnats "sluice/libs/playground/nats"
	"sluice/libs/service"
)

// partCommand is `sluice dev PART`: one part as a process of its own. start opens it and says where it
// listens and how it is closed.
func partCommand(name, short, listen string, start func(cmd *cobra.Command, listen, dir string) (addr string, close func() error, err error)) *cobra.Command {
	var dir string
	cmd := &cobra.Command{Use: name, Short: short, Args: noArgs}
	cmd.Flags().StringVar(&listen, "listen", listen, "host:port to listen on; port 0 takes a free one")
	cmd.Flags().StringVar(&dir, "dir", "", "data directory, kept; default: a temporary one, removed at the end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if dir == "" {
			tmp, err := os.MkdirTemp("", "sluice-"+name+"-")
			if err != nil {
				return fmt.Errorf("make the data directory: %w", err)
			}
			defer os.RemoveAll(tmp)
			dir = tmp
		} else {
			unlock, err := lockDir(dir)
			if err != nil {
				return err
			}
			defer unlock()
		}
		addr, closePart, err := start(cmd, listen, dir)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s listens on %s\n", name, addr)
		<-cmd.Context().Done()
		return closePart()
	}
	return cmd
}

func partLog() service.Config {
	return service.Config{LogLevel: "warn", LogFormat: "text"}
}

func devKafkaCommand() *cobra.Command {
	return partCommand("kafka", "Run the playground's Kafka alone", "127.0.0.1:9092",
		func(_ *cobra.Command, listen, dir string) (string, func() error, error) {
			cfg := partLog()
			b, err := kafka.Open(kafka.Config{Listen: listen, Dir: dir, AutoCreateTopics: true, Log: cfg.Logger()})
			if err != nil {
				return "", nil, err
			}
			return b.Addr(), func() error { b.Close(); return nil }, nil
		})
}

func devClickHouseCommand() *cobra.Command {
	return partCommand("clickhouse", "Run the playground's ClickHouse alone", "127.0.0.1:9000",
		func(cmd *cobra.Command, listen, dir string) (string, func() error, error) {
			cfg := partLog()
			s, err := openClickHouse(cmd.Context(), dir, listen, cfg.Logger(), cmd.ErrOrStderr())
			if err != nil {
				return "", nil, err
			}
			return s.Addr(), s.Close, nil
		})
}

func devNATSCommand() *cobra.Command {
	return partCommand("nats", "Run the playground's NATS alone", "127.0.0.1:4222",
		func(_ *cobra.Command, listen, dir string) (string, func() error, error) {
			cfg := partLog()
			s, err := playnats.Open(playnats.Config{Dir: dir, Listen: listen, Log: cfg.Logger()})
			if err != nil {
				return "", nil, err
			}
			return s.Addr(), s.Close, nil
		})
}
