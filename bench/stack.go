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

	"sluice/libs/playground/kafka/realkafka"
)

// part is a process of the stack, whose CPU is measured.
type part struct {
	name string
	cmd  *exec.Cmd
	log  string
}

// stack is everything as processes of its own on loopback: a real Kafka, NATS, the ClickHouse
// engine, and the four services.
type stack struct {
	dir, bin   string
	parts      []*part
	kafka      *realkafka.Real
	kafkaAddr  string
	clickhouse string
	control    string
}

func startStack(ctx context.Context, bin, dir string) (s *stack, err error) {
	s = &stack{dir: dir, bin: bin}
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
	ports, err := freePorts(12)
	if err != nil {
		return s, err
	}
	at := func(i int) string { return "127.0.0.1:" + strconv.Itoa(ports[i]) }
	nats := "nats://" + at(0)
	s.clickhouse, s.control = at(1), at(2)
	for _, p := range [][]string{
		{"nats", "sluice", "dev", "nats", "--listen", at(0), "--dir", filepath.Join(dir, "nats")},
		{"clickhouse", "sluice", "dev", "clickhouse", "--listen", s.clickhouse, "--dir", filepath.Join(dir, "clickhouse")},
		{"control", "control", "--nats", nats, "--grpc", s.control, "--http", at(3), "--name", "control"},
		{"ingestor", "ingestor", "--nats", nats, "--grpc", at(4), "--http", at(5), "--name", "ingestor"},
		{"dedup", "dedup", "--nats", nats, "--grpc", at(6), "--http", at(7), "--name", "dedup"},
		{"sink", "sink", "--nats", nats, "--grpc", at(8), "--http", at(9), "--name", "sink"},
	} {
		if err := s.start(p[0], p[1], p[2:]...); err != nil {
			return s, err
		}
	}
	return s, s.ready(ctx)
}

func (s *stack) start(name, binary string, args ...string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, binary), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	s.parts = append(s.parts, &part{name: name, cmd: cmd, log: log.Name()})
	return nil
}

func (s *stack) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		_, err := s.sluice(ctx, nil, "list")
		if err == nil {
			var version string
			if version, err = s.query(ctx, "SELECT version()"); err == nil && version != "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the stack is not ready: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *stack) stop() {
	for i := len(s.parts) - 1; i >= 0; i-- {
		_ = s.parts[i].cmd.Process.Signal(syscall.SIGTERM)
		_ = s.parts[i].cmd.Wait()
	}
	if s.kafka != nil {
		_ = s.kafka.Close()
	}
}

// sluice runs the command line tool.
func (s *stack) sluice(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "sluice"), append([]string{"--server", s.control}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
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

// cpu is the CPU that each process has used so far, in seconds.
func (s *stack) cpu() (map[string]float64, error) {
	used := map[string]float64{}
	pids := map[string]int{"kafka": s.kafka.Pid()}
	for _, p := range s.parts {
		pids[p.name] = p.cmd.Process.Pid
	}
	for name, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		// After the command, which is in parentheses, user and system time are fields 14 and 15.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
		if len(fields) < 13 {
			return nil, errors.New("unexpected /proc/PID/stat")
		}
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		used[name] = (user + system) / 100 // clock ticks: 100 a second on Linux
	}
	return used, nil
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
