//go:build linux

package compose

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"sluice/e2e/internal/stack"
)

// moved is how long lanes may take to find new owners, from the command on: starting a container included.
const moved = 90 * time.Second

// What a user does on the first day and later: up, a pipeline and one with a join, events; more instances and
// fewer; containers that die; everything down and up again. At the end each table holds every event once.
func TestStack(t *testing.T) {
	if os.Getenv("SLUICE_COMPOSE") == "" {
		t.Skip("SKIPPED, compose.yaml was not run: make e2e-compose runs it")
	}
	p := open(t)
	t.Cleanup(func() { p.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5") })
	p.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5") // of a run that was cut off
	p.compose("--profile", "demo", "build", "--quiet")
	p.compose("up", "--detach")
	base := map[string]int{
		"control": 1, "ingestor": 1, "dedup": 1, "join": 1, "sink": 1, "kafka": 1, "nats": 1, "clickhouse": 1, "jaeger": 1,
	}
	p.waitHealthy(base)
	p.checkContainers()
	p.checkPage()

	bin, err := stack.Binaries(root(t), t.TempDir())
	require.NoError(t, err)
	cli := stack.NewCLI(t, bin, p.ports["GRPC_PORT"])
	table := stack.OpenSQL(t, p.ports["CLICKHOUSE_PORT"])
	table.Exec("CREATE TABLE orders (id UInt64, text String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 10000")
	events := &orders{producer: stack.NewProducer(t, "localhost"+port(p.ports["KAFKA_PORT"]), "orders", partitions)}
	said := cli.Apply(`
id: orders
source: {kafka: {brokers: ["kafka:9092"], topic: orders}}
dedup: {key: [id], window: 24h}
sink: {clickhouse: {addr: ["clickhouse:9000"], table: orders}}
`)
	require.Contains(t, said, "exactly once")
	p.joined(cli, table)
	settled := func() {
		t.Helper()
		for _, id := range pipelines {
			cli.Wait(id, 5*time.Minute) // what flowed while the lanes moved is still on its way
		}
		events.check(t, table)
	}
	events.send(5000)
	p.waitOwners(cli, "dedup", 1)
	settled()

	// Events flow before every change, while it takes place, and after it.
	pause := events.flow(t)
	p.scale(cli, map[string]int{"dedup": 3, "sink": 2, "join": 2})
	pause()
	settled()

	pause = events.flow(t)
	base["dedup"], base["sink"], base["join"] = 3, 2, 2
	for _, service := range []string{"dedup", "join", "sink", "ingestor"} {
		p.kill(service)
		p.waitHealthy(map[string]int{service: base[service]}) // the engine starts it again
		p.waitOwners(cli, service, base[service])
	}
	pause()
	settled()

	pause = events.flow(t)
	p.scale(cli, map[string]int{"dedup": 1, "sink": 1, "join": 1})
	pause()
	settled()

	// Everything away but the volumes, with events still in Kafka.
	events.send(5000)
	p.compose("down")
	require.Empty(t, p.containers())
	p.compose("up", "--detach")
	base["dedup"], base["sink"], base["join"] = 1, 1, 1
	p.waitHealthy(base)
	settled()
	p.checkTraces(events)
	settled()

	p.demo(cli, table)
}

// scale changes numbers of instances and waits until the lanes of every pipeline are shared by so many.
func (p *project) scale(cli *stack.CLI, instances map[string]int) {
	p.t.Helper()
	before := map[string]bool{}
	for _, c := range p.containers() {
		before[c.ID] = true
	}
	args := []string{"up", "--detach", "--no-recreate"}
	for service, n := range instances {
		args = append(args, "--scale", fmt.Sprintf("%s=%d", service, n))
	}
	began := time.Now()
	p.compose(args...)
	// From here on the lanes move: the last new process begins, or the last old one is gone, which the command waits for.
	changed := began
	for _, c := range p.containers() {
		if !before[c.ID] {
			at, err := time.Parse(time.RFC3339Nano, p.inspect(c.ID, "{{.State.StartedAt}}"))
			require.NoError(p.t, err)
			changed = later(changed, at)
		}
	}
	if changed.Equal(began) {
		changed = time.Now()
	}
	for service, n := range instances {
		p.waitOwners(cli, service, n)
	}
	p.t.Logf("%v: lanes spread %s after the last container had changed", instances, time.Since(changed).Round(100*time.Millisecond))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// waitOwners waits until what a service's instances share is shared by n of them: partitions or lanes of all pipelines.
func (p *project) waitOwners(cli *stack.CLI, service string, n int) {
	p.t.Helper()
	stage := service
	if service == "ingestor" {
		stage = "ingest"
	}
	stack.Await(p.t, moved, fmt.Sprintf("%d owners of what %s shares", n, service), func() (bool, any) {
		owners, total := map[string]int{}, 0
		for _, id := range pipelines {
			for owner, units := range cli.Status(id).Owners(stage) {
				owners[owner] += units
				total += units
			}
		}
		return owners[""] == 0 && len(owners) == n && total == units[service], owners
	})
}

// kill kills a process of a service as a crash would; Docker's own kill would tell the engine that it was meant. It returns
// once the engine has started another.
func (p *project) kill(service string) {
	p.t.Helper()
	for _, c := range p.containers() {
		if c.Service != service {
			continue
		}
		killed := p.inspect(c.ID, "{{.State.Pid}}")
		pid, err := strconv.Atoi(killed)
		require.NoError(p.t, err)
		require.NoError(p.t, syscall.Kill(pid, syscall.SIGKILL))
		stack.Await(p.t, up, service+" started again", func() (bool, any) {
			now := p.inspect(c.ID, "{{.State.Pid}}")
			return now != killed && now != "0", now
		})
		return
	}
	p.t.Fatalf("no container of %s", service)
}

// checkContainers looks at what really runs.
func (p *project) checkContainers() {
	p.t.Helper()
	for _, c := range p.containers() {
		if c.Service == "nats-volume" {
			require.Equal(p.t, "exited", c.State)
			require.Zero(p.t, c.ExitCode)
			continue
		}
		pid := p.inspect(c.ID, "{{.State.Pid}}")
		status, err := os.ReadFile("/proc/" + pid + "/status")
		require.NoError(p.t, err)
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			fields := strings.Fields(value)
			switch name {
			case "Uid":
				require.NotContains(p.t, fields, "0", "%s runs as root", c.Service)
			case "CapEff", "CapBnd":
				require.Equal(p.t, []string{"0000000000000000"}, fields, "%s: %s", c.Service, name)
			case "NoNewPrivs":
				require.Equal(p.t, []string{"1"}, fields, c.Service)
			}
		}
		require.Equal(p.t, "true", p.inspect(c.ID, "{{.HostConfig.ReadonlyRootfs}}"), c.Service)
		require.NotEqual(p.t, "0", p.inspect(c.ID, "{{.HostConfig.Memory}}"), c.Service)
	}
}

// checkPage runs the part of docs/grpcurl.md that says where the services are. The rest of the page is run in
// e2e/grpcurl.
func (p *project) checkPage() {
	p.t.Helper()
	page, err := os.ReadFile(filepath.Join(root(p.t), "docs", "grpcurl.md"))
	require.NoError(p.t, err)
	_, rest, found := strings.Cut(string(page), "```sh setup\n")
	require.True(p.t, found)
	setup, _, found := strings.Cut(rest, "```")
	require.True(p.t, found)
	cmd := exec.Command("bash", "-eu", "-c", setup+`for at in $CONTROL $INGESTOR $DEDUP $JOIN $SINK; do echo $at; done`)
	cmd.Dir, cmd.Env = root(p.t), p.env
	out, err := cmd.Output()
	require.NoError(p.t, err, "%s", stderr(err))
	addrs := strings.Fields(string(out))
	require.Len(p.t, addrs, 5)
	for _, addr := range addrs {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		require.NoError(p.t, err)
		resp, err := grpc_health_v1.NewHealthClient(conn).Check(p.t.Context(), &grpc_health_v1.HealthCheckRequest{})
		require.NoError(p.t, err, "%s", addr)
		require.Equal(p.t, grpc_health_v1.HealthCheckResponse_SERVING, resp.Status)
		require.NoError(p.t, conn.Close())
	}
}

// checkTraces sends events until Jaeger knows every service that they go through. The first spans may be
// lost: without a way to the world a name server takes its time to say so, and that is what gRPC asks first.
func (p *project) checkTraces(events *orders) {
	p.t.Helper()
	stack.Await(p.t, 2*time.Minute, "spans of every service in Jaeger", func() (bool, any) {
		events.send(1)
		resp, err := http.Get("http://" + p.ports["JAEGER_PORT"] + "/api/services")
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		var services struct{ Data []string }
		if err := json.NewDecoder(resp.Body).Decode(&services); err != nil {
			return false, err
		}
		for _, name := range []string{"sluice-ingestor", "sluice-dedup", "sluice-sink"} {
			if !slices.Contains(services.Data, name) {
				return false, services.Data
			}
		}
		return true, nil
	})
}

// demo runs the profile of that name with an end.
func (p *project) demo(cli *stack.CLI, table *stack.Table) {
	p.t.Helper()
	p.env = append(p.env, "EVENTS=2000", "RATE=1000")
	p.compose("--profile", "demo", "up", "--detach")
	stack.Await(p.t, up, "the demo's load to end", func() (bool, any) {
		for _, c := range p.containers() {
			if c.Service == "demo-load" && c.State == "exited" {
				require.Zero(p.t, c.ExitCode)
				return true, nil
			}
		}
		return false, p.containers()
	})
	cli.Wait("clicks", time.Minute)
	require.Equal(p.t, []string{"2000|2000"}, table.Rows("SELECT count(), uniqExact(click_id) FROM clicks"))
	status := cli.Status("clicks")
	require.EqualValues(p.t, 2200, status.RecordsIn)
	require.EqualValues(p.t, 200, status.Duplicates)
}

// port is ":PORT" of an address.
func port(addr string) string { return addr[strings.LastIndexByte(addr, ':'):] }
