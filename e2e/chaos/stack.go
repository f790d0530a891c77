//go:build unix

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
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/e2e/internal/ports"
	"sluice/libs/playground/kafka/realkafka"
)

// up is how long the whole may take to start on a busy machine.
const up = 5 * time.Minute

// Part is a process and the line that it reaches the rest by.
type Part struct {
	*Process
	// Link is the proxy between a service and NATS, or between the services and ClickHouse; nil for NATS.
	Link *Proxy
}

// Stack is everything, each a process of its own. Methods may be called concurrently but for Add and Remove.
type Stack struct {
	dir, bin         string
	kafka            *realkafka.Real
	kafkaLink        *Proxy
	nats, clickhouse *Part
	control          *Part
	natsAddr         string // of the server itself, for what must not be disturbed
	clickhouseAddr   string // likewise
	controlAddr      string
	complain         func(format string, args ...any)
	order            []string // of the stages, from Kafka to ClickHouse

	mu     sync.Mutex
	stages map[string][]*Part // guarded by mu: the instances of each stage
	made   map[string]int     // guarded by mu: instances of a stage so far, for their names
	all    []*Process         // guarded by mu: also those that were removed
}

// newStack starts everything and returns once it answers. complain is told what must not happen.
func newStack(ctx context.Context, bin, dir string, stages []string, complain func(string, ...any)) (s *Stack, err error) {
	s = &Stack{dir: dir, bin: bin, complain: complain, order: stages, stages: map[string][]*Part{}, made: map[string]int{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, up)
	defer cancel()
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o755); err != nil {
		return s, err
	}
	addrs, err := ports.Free(4)
	if err != nil {
		return s, err
	}
	s.natsAddr, s.clickhouseAddr = addrs[0], addrs[1]
	if s.kafkaLink, err = NewProxy(addrs[2], func() string { return s.kafka.Addr() }); err != nil {
		return s, err
	}
	s.nats = s.part(NATS, "sluice", nil, "dev", "nats", "--listen", s.natsAddr, "--dir", filepath.Join(dir, "nats"))
	line, err := NewProxy(addrs[3], func() string { return s.clickhouseAddr })
	if err != nil {
		return s, err
	}
	s.clickhouse = s.part(ClickHouse, "sluice", line,
		"dev", "clickhouse", "--listen", s.clickhouseAddr, "--dir", filepath.Join(dir, "clickhouse"))
	for _, p := range []*Part{s.nats, s.clickhouse} {
		if err := p.Start(); err != nil {
			return s, err
		}
	}
	// Clients learn the proxy's address from the broker: everybody's connection goes through it.
	if s.kafka, err = realkafka.Run(ctx, realkafka.Config{
		Dir: filepath.Join(dir, "kafka"), Flags: []string{"-XX:TieredStopAtLevel=1"},
		Properties: map[string]string{"advertised.listeners": "PLAINTEXT://" + s.kafkaLink.Addr()},
	}); err != nil {
		return s, err
	}
	if s.control, err = s.service(Control, Control); err != nil {
		return s, err
	}
	if err := s.control.Start(); err != nil {
		return s, err
	}
	for _, stage := range stages {
		for range startInstances {
			if err := s.Add(stage); err != nil {
				return s, err
			}
		}
	}
	return s, s.ready(ctx)
}

// part makes a process that does not run yet.
func (s *Stack) part(name, binary string, link *Proxy, args ...string) *Part {
	p := &Process{
		Name: name, LogFile: filepath.Join(s.dir, "logs", name+".log"), path: filepath.Join(s.bin, binary), args: args,
	}
	p.lost = func(name, how string) {
		s.complain("%s ended by itself: %s; its log ends with\n%s", name, how, p.Tail(40))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, p)
	return &Part{Process: p, Link: link}
}

// service makes an instance of a service with a line of its own to NATS.
func (s *Stack) service(service, name string) (*Part, error) {
	var (
		addrs []string
		link  *Proxy
		err   error
	)
	for range 10 { // a process that is just being started may still hold a port that was looked for
		if addrs, err = ports.Free(3); err != nil {
			return nil, err
		}
		if link, err = NewProxy(addrs[0], func() string { return s.natsAddr }); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	if service == Control {
		s.controlAddr = addrs[1]
	}
	args := []string{"--nats", "nats://" + link.Addr(), "--grpc", addrs[1], "--http", addrs[2], "--name", name}
	if service == Join {
		args = append(args, "--data-dir", filepath.Join(s.dir, "join"))
	}
	return s.part(name, service, link, args...), nil
}

// Add starts one more instance of a stage.
func (s *Stack) Add(stage string) error {
	s.mu.Lock()
	s.made[stage]++
	name := fmt.Sprintf("%s-%d", stage, s.made[stage])
	s.mu.Unlock()
	p, err := s.service(stage, name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.stages[stage] = append(s.stages[stage], p)
	s.mu.Unlock()
	return p.Start()
}

// Remove takes an instance out and stops it in good order.
func (s *Stack) Remove(stage string, pick int) (string, error) {
	s.mu.Lock()
	all := s.stages[stage]
	i := pick % len(all)
	p := all[i]
	s.stages[stage] = append(append([]*Part(nil), all[:i]...), all[i+1:]...)
	s.mu.Unlock()
	code, err := p.Stop()
	p.Link.Close()
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	return p.Name, err
}

// Pick returns one process of a target, or for pick < 0 all of them. There is none for Kafka.
func (s *Stack) Pick(target string, pick int) []*Part {
	switch target {
	case NATS:
		return []*Part{s.nats}
	case ClickHouse:
		return []*Part{s.clickhouse}
	case Control:
		return []*Part{s.control}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.stages[target]
	if pick < 0 {
		return append([]*Part(nil), all...)
	}
	return []*Part{all[pick%len(all)]}
}

// Services returns the running services, the last of the data's way first.
func (s *Stack) Services() []*Part {
	var out []*Part
	for _, stage := range slices.Backward(s.order) {
		out = append(out, s.Pick(stage, -1)...)
	}
	return append(out, s.control)
}

func (s *Stack) ready(ctx context.Context) error {
	for {
		_, err := s.Sluice(ctx, "", "list")
		if err == nil {
			var conn net.Conn
			if conn, err = net.DialTimeout("tcp", s.clickhouseAddr, time.Second); err == nil {
				return conn.Close()
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the stack is not ready: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Sluice runs the command line.
func (s *Stack) Sluice(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "sluice"), append([]string{"--server", s.controlAddr}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("sluice %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// StopServices ends the services in good order.
func (s *Stack) StopServices() error {
	var errs []error
	for _, p := range s.Services() {
		if code, err := p.Stop(); err != nil || code != 0 {
			errs = append(errs, fmt.Errorf("stop %s: exit code %d: %w", p.Name, code, err))
		}
	}
	return errors.Join(errs...)
}

// Close kills what still runs.
func (s *Stack) Close() {
	s.mu.Lock()
	all := s.all
	links := []*Proxy{s.kafkaLink}
	for _, parts := range s.stages {
		for _, p := range parts {
			links = append(links, p.Link)
		}
	}
	s.mu.Unlock()
	for _, p := range []*Part{s.control, s.clickhouse} {
		if p != nil {
			links = append(links, p.Link)
		}
	}
	for _, p := range all {
		_ = p.Kill() // gone or not, we leave
	}
	if s.kafka != nil {
		_ = s.kafka.Close()
	}
	for _, l := range links {
		if l != nil {
			l.Close()
		}
	}
}
