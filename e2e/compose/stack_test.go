//go:build linux

package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/compose/internal/engine"
	"sluice/e2e/compose/internal/standin"
	"sluice/e2e/internal/stack"
)

// project is one `docker compose` project of the repository's file on an engine of the test's own.
type project struct {
	t      testing.TB
	engine *engine.Engine
	env    []string
	ports  map[string]string // by the variable that sets it
}

// standins are the images that compose.yaml and the Dockerfile name and that the stack needs. What a
// profile needs besides is not run here.
func standins(t testing.TB) []string {
	t.Helper()
	f := config(t)
	tags := []string{
		f.Services["kafka"].Image, f.Services["nats"].Image, f.Services["clickhouse"].Image, f.Services["jaeger"].Image,
	}
	dockerfile, err := os.ReadFile(filepath.Join(root(t), "deploy", "Dockerfile"))
	require.NoError(t, err)
	for line := range strings.Lines(string(dockerfile)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "FROM" && words[1] != "scratch" {
			tags = append(tags, words[1])
		}
	}
	return tags
}

// open starts an engine with all images. The test is skipped where no engine can be had.
func open(t testing.TB) *project {
	t.Helper()
	started := time.Now()
	e, err := engine.Start(t.Context(), cache(t, "compose-engine"))
	if errors.Is(err, engine.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skipf("SKIPPED, compose.yaml was not run: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		// What no tag names any more: images of earlier commits, and old steps of builds.
		ctx := context.WithoutCancel(t.Context())
		for _, prune := range [][]string{{"image", "prune", "--force"}, {"builder", "prune", "--force", "--keep-storage", "3GB"}} {
			if _, err := e.Docker(ctx, prune...); err != nil {
				t.Error(err) // and stop the engine nevertheless
			}
		}
		require.NoError(t, e.Stop())
	})
	t.Logf("engine: %s", time.Since(started).Round(time.Millisecond))
	p := parts(t)
	for _, tag := range standins(t) {
		started := time.Now()
		require.NoError(t, standin.Ensure(t.Context(), e, tag, p))
		t.Logf("image %s: %s", tag, time.Since(started).Round(time.Millisecond))
	}
	pr := &project{t: t, engine: e, ports: map[string]string{}}
	plugins := filepath.Join(t.TempDir(), "cli-plugins")
	require.NoError(t, os.MkdirAll(plugins, 0o755))
	require.NoError(t, os.Symlink(composeBinary(t), filepath.Join(plugins, "docker-compose")))
	pr.env = append(os.Environ(), "DOCKER_HOST="+e.Host, "DOCKER_CONFIG="+filepath.Dir(plugins), "COMPOSE_PROJECT_NAME=sluice-e2e")
	names := []string{"GRPC_PORT", "KAFKA_PORT", "NATS_PORT", "CLICKHOUSE_PORT", "CLICKHOUSE_HTTP_PORT", "JAEGER_PORT"}
	for i, addr := range stack.FreeAddrs(t, len(names)) {
		name := names[i]
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		pr.ports[name] = addr
		pr.env = append(pr.env, name+"="+port)
	}
	return pr
}

// up is long enough for a busy machine with two cores to start twelve containers.
const up = 3 * time.Minute

// command is a command of `docker compose` in the repository.
func (p *project) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"compose"}, args...)...)
	cmd.Dir, cmd.Env = root(p.t), p.env
	return cmd
}

// compose runs a command that must succeed and returns what it printed to standard output.
func (p *project) compose(args ...string) string {
	p.t.Helper()
	started := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), 20*2*time.Minute) // also in a cleanup
	defer cancel()
	cmd := p.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("docker compose %s: %v\n%s\n%s", strings.Join(args, " "), err, tail(stderr.String(), 8<<10), tail(p.logs(), 24<<10))
	}
	p.t.Logf("docker compose %s: %s", strings.Join(args, " "), time.Since(started).Round(time.Millisecond))
	return stdout.String()
}

// logs are the last lines of every container.
func (p *project) logs() string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, _ := p.command(ctx, "ps", "--all").CombinedOutput()
	logs, _ := p.command(ctx, "logs", "--no-color", "--tail", "15").CombinedOutput()
	return string(out) + string(logs)
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// container is a line of `docker compose ps --format json`.
type container struct {
	ID, Name, Service, State, Health string
	ExitCode                         int
}

// containers lists them, also those that ended.
func (p *project) containers() []container {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := p.command(ctx, "--profile", "*", "ps", "--all", "--format", "json").Output()
	require.NoError(p.t, err, "%s", stderr(err))
	var all []container
	for line := range bytes.Lines(out) {
		var c container
		require.NoError(p.t, json.Unmarshal(line, &c), "%s", line)
		all = append(all, c)
	}
	return all
}

// waitHealthy waits until each service has so many containers, all healthy, and none else.
func (p *project) waitHealthy(want map[string]int) {
	p.t.Helper()
	stack.Await(p.t, up, fmt.Sprintf("healthy containers: %v", want), func() (bool, any) {
		have := map[string]int{}
		all := p.containers()
		for _, c := range all {
			if c.Health == "healthy" && c.State == "running" {
				have[c.Service]++
			}
		}
		for service, n := range want {
			if have[service] != n {
				return false, all
			}
		}
		return true, nil
	})
}

// inspect asks the engine about a container.
func (p *project) inspect(id, format string) string {
	p.t.Helper()
	out, err := p.engine.Docker(p.t.Context(), "inspect", "--format", format, id)
	require.NoError(p.t, err)
	return strings.TrimSpace(out)
}
