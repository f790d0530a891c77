package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"sluice/libs/fencedlog"
	"sluice/libs/playground/kafka/realkafka"
)

// part is a process whose CPU is measured.
type part struct {
	name string
	cmd  *exec.Cmd
}

// stack is everything as processes of its own on loopback: a real Kafka and the ClickHouse engine, which all sides share,
// and the sides.
type stack struct {
	dir        string
	kafka      *realkafka.Real
	kafkaAddr  string
	clickhouse string
	engine     *part
	sides      []*side
}

// side is the services in one setup, with a NATS of their own. Sides take turns; one that has nothing to do costs next to nothing.
type side struct {
	dir, bin      string
	instances     int
	parts         []*part
	nats, control string
}

func startStack(ctx context.Context, bin, dir string) (s *stack, err error) {
	s = &stack{dir: dir}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	s.kafka, err = realkafka.Run(ctx, realkafka.Config{Dir: filepath.Join(dir, "kafka"), Heap: "1g"})
	if err != nil {
		return s, err
	}
	s.kafkaAddr = s.kafka.Addr()
	ports, err := freePorts(1)
	if err != nil {
		return s, err
	}
	s.clickhouse = ports[0]
	s.engine, err = start(dir, bin, "clickhouse", "sluice", "dev", "clickhouse", "--listen", s.clickhouse, "--dir", filepath.Join(dir, "clickhouse"))
	if err != nil {
		return s, err
	}
	return s, await(ctx, "the ClickHouse engine", func(ctx context.Context) error {
		_, err := s.query(ctx, "SELECT version()")
		return err
	})
}

// side returns the services as the setup wants them, and starts them the first time.
func (s *stack) side(ctx context.Context, su setup) (*side, error) {
	for _, d := range s.sides {
		if d.bin == su.bin && d.instances == su.instances {
			return d, nil
		}
	}
	d := &side{dir: filepath.Join(s.dir, fmt.Sprintf("side-%d", len(s.sides))), bin: su.bin, instances: su.instances}
	s.sides = append(s.sides, d)
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return nil, err
	}
	ports, err := freePorts(3 + 8*su.instances)
	if err != nil {
		return nil, err
	}
	next := func() string {
		port := ports[0]
		ports = ports[1:]
		return port
	}
	addr := next()
	d.nats, d.control = "nats://"+addr, next()
	run := func(name, binary string, args ...string) error {
		p, err := start(d.dir, d.bin, name, binary, args...)
		if err == nil {
			d.parts = append(d.parts, p)
		}
		return err
	}
	if err := run("nats", "sluice", "dev", "nats", "--listen", addr, "--dir", filepath.Join(d.dir, "nats")); err != nil {
		return nil, err
	}
	if err := run("control", "control", "--nats", d.nats, "--grpc", d.control, "--http", next(), "--name", "control"); err != nil {
		return nil, err
	}
	for _, service := range []string{"ingestor", "dedup", "join", "sink"} {
		for i := range su.instances {
			if err := run(service, service, "--nats", d.nats, "--grpc", next(), "--http", next(), "--name", fmt.Sprintf("%s-%d", service, i)); err != nil {
				return nil, err
			}
		}
	}
	return d, await(ctx, "the services", func(ctx context.Context) error {
		_, err := d.sluice(ctx, nil, "list")
		return err
	})
}

// start starts a process that does not outlive this one. Its log is name.log in dir, appended to where several have the name.
func start(dir, bin, name, binary string, args ...string) (*part, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, binary), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &part{name, cmd}, nil
}

func await(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not ready: %w", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *part) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

func (s *stack) stop() {
	for _, d := range s.sides {
		for i := len(d.parts) - 1; i >= 0; i-- {
			d.parts[i].stop()
		}
	}
	if s.engine != nil {
		s.engine.stop()
	}
	if s.kafka != nil {
		_ = s.kafka.Close()
	}
}

// sluice runs the command line tool.
func (d *side) sluice(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(d.bin, "sluice"), append([]string{"--server", d.control}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// messages is how many the ingest log of a pipeline has got, fences included.
func (d *side) messages(ctx context.Context, pipeline string) (uint64, error) {
	nc, err := nats.Connect(d.nats)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0, err
	}
	stream, err := js.Stream(ctx, fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.Ingest}.Stream())
	if err != nil {
		return 0, err
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// query returns the only value of a query's only row, as text.
func (s *stack) query(ctx context.Context, sql string) (string, error) {
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{s.clickhouse}})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if !strings.HasPrefix(sql, "SELECT") {
		return "", conn.Exec(ctx, sql)
	}
	var value string
	err = conn.QueryRow(ctx, "SELECT toString(("+sql+"))").Scan(&value)
	return value, err
}

// cpu is the CPU that the shared processes and those of a side have used so far, in seconds by name.
func (s *stack) cpu(d *side) (map[string]float64, error) {
	used := map[string]float64{}
	add := func(name string, pid int) error {
		seconds, err := cpuOf(pid)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		used[name] += seconds
		return nil
	}
	if err := add("kafka", s.kafka.Pid()); err != nil {
		return nil, err
	}
	for _, p := range append([]*part{s.engine}, d.parts...) {
		if err := add(p.name, p.cmd.Process.Pid); err != nil {
			return nil, err
		}
	}
	return used, nil
}

func cpuOf(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// After the command, which is in parentheses, user and system time are fields 14 and 15.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
	if len(fields) < 13 {
		return 0, errors.New("unexpected /proc/PID/stat")
	}
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100, nil // clock ticks: 100 a second on Linux
}

// freePorts returns addresses on loopback.
func freePorts(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
