package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"sluice/libs/playground/clickhouse"
	"sluice/libs/playground/kafka"
	playnats "sluice/libs/playground/nats"
	"sluice/libs/service"
)

// addresses is where the playground is reached; the JSON of --addresses.
type addresses struct {
	Kafka      string `json:"kafka"`
	ClickHouse string `json:"clickhouse"`
	NATS       string `json:"nats"`
	GRPC       string `json:"grpc"`
	HTTP       string `json:"http"`
}

// playground is what `sluice dev` and `sluice demo` run. A part whose address is given is used; the
// others run in this process.
type playground struct {
	dir string // holds everything that the parts keep
	// Addresses of existing parts; empty: run one.
	kafka, clickhouse, nats string
	// listen is where own parts listen.
	listen addresses
	// keepKafka keeps records and groups in dir, else they are in memory.
	keepKafka bool
	cfg       service.Config
	progress  io.Writer // one line while the engine is fetched
}

// friendly are the ports that people expect; any other is taken when one is in use.
func friendly() addresses {
	return addresses{
		Kafka: free("127.0.0.1:9092"), ClickHouse: free("127.0.0.1:9000"), NATS: free("127.0.0.1:4222"),
		GRPC: free("127.0.0.1:7070"), HTTP: free("127.0.0.1:7080"),
	}
}

// anyPorts are free ports, for what runs beside a playground.
func anyPorts() addresses {
	const a = "127.0.0.1:0"
	return addresses{a, a, a, a, a}
}

func free(addr string) string {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		host, _, _ := net.SplitHostPort(addr)
		return net.JoinHostPort(host, "0")
	}
	_ = l.Close()
	return addr
}

// run starts the parts and the services, calls ready once all are, and runs until ctx ends. The
// services stop before the parts that they use.
func (p *playground) run(ctx context.Context, ready func(addresses)) error {
	log := p.cfg.Logger()
	at := addresses{Kafka: p.kafka, ClickHouse: p.clickhouse, NATS: p.nats}
	if at.NATS == "" {
		srv, err := playnats.Open(playnats.Config{Dir: filepath.Join(p.dir, "nats"), Listen: p.listen.NATS, Log: log})
		if err != nil {
			return err
		}
		defer srv.Close()
		at.NATS = srv.URL()
	}
	if at.Kafka == "" {
		b, err := kafka.Open(p.kafkaConfig(log))
		if err != nil {
			return err
		}
		defer b.Close()
		at.Kafka = b.Addr()
	}
	if at.ClickHouse == "" {
		srv, err := openClickHouse(ctx, filepath.Join(p.dir, "clickhouse"), p.listen.ClickHouse, log, p.progress)
		if err != nil {
			return err
		}
		defer srv.Close()
		at.ClickHouse = srv.Addr()
	}
	cfg := p.cfg
	cfg.NATS, cfg.GRPC, cfg.HTTP = at.NATS, p.listen.GRPC, p.listen.HTTP
	return stopped(ctx, service.Run(ctx, cfg, service.Options{Log: log, OnReady: func(a service.Addresses) {
		at.GRPC, at.HTTP = a.GRPC, a.HTTP
		ready(at)
	}}, allServices(p.dir)...))
}

func (p *playground) kafkaConfig(log *slog.Logger) kafka.Config {
	cfg := kafka.Config{Listen: p.listen.Kafka, AutoCreateTopics: true, Log: log}
	if p.keepKafka {
		cfg.Dir = filepath.Join(p.dir, "kafka")
	}
	return cfg
}

func openClickHouse(ctx context.Context, dir, listen string, log *slog.Logger, progress io.Writer) (*clickhouse.Server, error) {
	library, err := clickhouse.Library(ctx, progress)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make ClickHouse's directory: %w", err)
	}
	return clickhouse.Open(clickhouse.Config{Dir: dir, Listen: listen, Library: library, Log: log})
}

// writeAddresses writes the file at once or not at all: whoever waits for it never reads half of it.
func writeAddresses(path string, a addresses) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".addresses-*")
	if err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	return nil
}
