//go:build unix

package stack

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Up is how long a process may take until it is ready on a busy machine.
const Up = 2 * time.Minute

// Services are the four services, in the order of the data's way behind control.
var Services = []string{"control", "ingestor", "dedup", "sink"}

// Stack is Sluice as four services with a NATS and a ClickHouse, each a process of its own.
type Stack struct {
	*CLI
	NATS, ClickHouse *Process
	// NATSAddr and ClickHouseAddr are where they listen, whether they run or not.
	NATSAddr, ClickHouseAddr string
	// NATSDir is where NATS keeps its store.
	NATSDir string
	// GRPC is where the control service listens.
	GRPC string

	t        testing.TB
	bin      string
	env      []string
	services map[string]*Process
	http     map[string]string // address of /healthz and /readyz by name
	grpc     map[string]string // address of the gRPC server by name
}

// New chooses ports and directories; nothing runs yet. env is added to the services' environment.
func New(t testing.TB, bin string, env ...string) *Stack {
	t.Helper()
	addrs := FreeAddrs(t, 2)
	s := &Stack{
		t: t, bin: bin, env: env, services: map[string]*Process{}, http: map[string]string{}, grpc: map[string]string{},
		NATSAddr: addrs[0], ClickHouseAddr: addrs[1], NATSDir: t.TempDir(),
	}
	sluice := filepath.Join(bin, "sluice")
	s.NATS = NewProcess(t, "nats", sluice, []string{"dev", "nats", "--listen", s.NATSAddr, "--dir", s.NATSDir}, nil)
	s.ClickHouse = NewProcess(t, "clickhouse", sluice,
		[]string{"dev", "clickhouse", "--listen", s.ClickHouseAddr, "--dir", t.TempDir()}, nil)
	for _, name := range Services {
		s.add(name, name)
	}
	return s
}

// add makes an instance of a service.
func (s *Stack) add(service, name string) *Process {
	s.t.Helper()
	addrs := FreeAddrs(s.t, 2)
	s.services[name] = NewProcess(s.t, name, filepath.Join(s.bin, service), []string{
		"--nats", "nats://" + s.NATSAddr, "--grpc", addrs[0], "--http", addrs[1], "--name", name,
	}, s.env)
	s.grpc[name], s.http[name] = addrs[0], addrs[1]
	if name == "control" {
		s.GRPC = addrs[0]
		s.CLI = NewCLI(s.t, s.bin, addrs[0])
	}
	return s.services[name]
}

// Run starts everything and returns once it is ready.
func Run(t testing.TB, bin string, env ...string) *Stack {
	t.Helper()
	s := New(t, bin, env...)
	s.NATS.Start()
	s.ClickHouse.Start()
	s.StartServices()
	WaitListen(t, s.ClickHouseAddr)
	for _, name := range Services {
		s.WaitReady(name)
	}
	return s
}

// Service returns an instance of a service by its name.
func (s *Stack) Service(name string) *Process { return s.services[name] }

// Address returns where an instance of a service serves gRPC.
func (s *Stack) Address(name string) string { return s.grpc[name] }

// Scale starts one more instance of a service.
func (s *Stack) Scale(service, name string) *Process {
	s.t.Helper()
	p := s.add(service, name)
	p.Start()
	s.WaitReady(name)
	return p
}

// Processes returns all processes, also those that do not run.
func (s *Stack) Processes() []*Process {
	all := []*Process{s.NATS, s.ClickHouse}
	for _, p := range s.services {
		all = append(all, p)
	}
	return all
}

// StartServices starts the four services and does not wait.
func (s *Stack) StartServices() {
	s.t.Helper()
	for _, name := range Services {
		s.services[name].Start()
	}
}

// Ready tells whether a service says that it is ready.
func (s *Stack) Ready(name string) bool { return answers(s.http[name], "/readyz") }

// Alive tells whether a service says that it is alive.
func (s *Stack) Alive(name string) bool { return answers(s.http[name], "/healthz") }

// WaitReady waits until a service says that it is ready.
func (s *Stack) WaitReady(name string) {
	s.t.Helper()
	WaitReady(s.t, name, s.http[name])
}

func answers(addr, path string) bool {
	resp, err := (&http.Client{Timeout: time.Second}).Get("http://" + addr + path)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// WaitReady waits until the process that serves HTTP on addr says that it is ready.
func WaitReady(t testing.TB, name, addr string) {
	t.Helper()
	require.Eventually(t, func() bool { return answers(addr, "/readyz") }, Up, 50*time.Millisecond, "%s is not ready", name)
}

// WaitListen waits until something accepts connections.
func WaitListen(t testing.TB, addr string) {
	t.Helper()
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}, Up, 50*time.Millisecond, "nothing listens on %s", addr)
}
