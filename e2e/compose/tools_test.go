//go:build linux

package compose

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/e2e/compose/internal/standin"
	"sluice/libs/playground/clickhouse"
	"sluice/libs/playground/kafka/realkafka"
)

const (
	composeVersion = "2.40.3" // as in tools/compose/go.mod
	jaegerVersion  = "1.76.0" // as in tools/jaeger/go.mod
	// The jar of Kafka's command line, which the broker does not need.
	kafkaTools    = "kafka-tools-" + realkafka.Version + ".jar"
	kafkaToolsSum = "6b88f3f0799c585b5121d9f710e448cd365d4cfd55ff3ab5d2d81f52ae59030d"
)

func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	return dir
}

// cache is a directory of the user's cache.
func cache(t testing.TB, elem ...string) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	require.NoError(t, err)
	dir = filepath.Join(append([]string{dir, "sluice"}, elem...)...)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	return dir
}

// stderr is what a command said that failed.
func stderr(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

// composeBinary is the pinned Compose, built once into the cache.
func composeBinary(t testing.TB) string {
	return buildTool(t, "compose", filepath.Join(cache(t, "compose-"+composeVersion), "docker-compose"),
		"-ldflags=-s -w -X github.com/docker/compose/v2/internal.Version=v"+composeVersion, "github.com/docker/compose/v2/cmd")
}

// jaegerBinary is the pinned Jaeger, built once into the cache.
func jaegerBinary(t testing.TB) string {
	return buildTool(t, "jaeger", filepath.Join(cache(t, "jaeger-"+jaegerVersion), "jaeger"),
		"-ldflags=-s -w", "github.com/jaegertracing/jaeger/cmd/all-in-one")
}

// buildTool builds a program from its module below tools/, unless it is in the cache. Whoever comes
// meanwhile waits.
func buildTool(t testing.TB, module, program string, args ...string) string {
	t.Helper()
	lock, err := os.OpenFile(program+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	require.NoError(t, err)
	defer lock.Close()
	require.NoError(t, syscall.Flock(int(lock.Fd()), syscall.LOCK_EX))
	if _, err := os.Stat(program); err == nil {
		return program
	}
	fmt.Fprintf(os.Stderr, "building %s from tools/%s (some minutes, once)\n", filepath.Base(program), module)
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", program + ".new"}, args...)...)
	cmd.Dir = filepath.Join(root(t), "tools", module)
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, os.Rename(program+".new", program))
	return program
}

// natsBinary is the server of the version that the libraries are tested with.
func natsBinary(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "nats-server")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, "github.com/nats-io/nats-server/v2")
	cmd.Dir = filepath.Join(root(t), "libs")
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// goEnv is a setting of the toolchain.
func goEnv(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// modules is a directory from which a build without network gets what the programs need.
func modules(t testing.TB) string {
	t.Helper()
	dir := cache(t, "compose-modules")
	cmd := exec.Command("go", "mod", "download")
	cmd.Dir = filepath.Join(root(t), "cmd", "sluice")
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOMODCACHE="+dir, "GOFLAGS=-modcacherw",
		"GOPROXY=file://"+filepath.Join(goEnv(t, "GOMODCACHE"), "cache", "download")+","+goEnv(t, "GOPROXY"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return filepath.Join(dir, "cache", "download")
}

// kafkaToolsJar fetches the jar of Kafka's command line once.
func kafkaToolsJar(ctx context.Context, t testing.TB) string {
	t.Helper()
	dir := cache(t, "kafka-tools-"+realkafka.Version)
	jar := filepath.Join(dir, kafkaTools)
	if _, err := os.Stat(jar); err != nil {
		out, err := exec.CommandContext(ctx, "mvn", "-B", "-q", "dependency:copy",
			"-Dartifact=org.apache.kafka:kafka-tools:"+realkafka.Version, "-DoutputDirectory="+dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	b, err := os.ReadFile(jar)
	require.NoError(t, err)
	sum := sha256.Sum256(b)
	require.Equal(t, kafkaToolsSum, hex.EncodeToString(sum[:]), "%s", jar)
	return jar
}

// parts gathers what the images are made of.
func parts(t testing.TB) standin.Parts {
	t.Helper()
	ctx := t.Context()
	find := func(name string) string {
		path, err := exec.LookPath(name)
		require.NoError(t, err, "tools/compose/install brings it")
		path, err = filepath.EvalSymlinks(path)
		require.NoError(t, err)
		return path
	}
	lib, err := realkafka.Jars(ctx, "", os.Stderr)
	require.NoError(t, err)
	engine, err := clickhouse.Library(ctx, os.Stderr)
	require.NoError(t, err)
	sluice := filepath.Join(t.TempDir(), "sluice")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", sluice, "./cmd/sluice")
	build.Dir, build.Env = root(t), append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return standin.Parts{
		Busybox: find("busybox"), Bash: find("bash-static"), NATS: natsBinary(t), Jaeger: jaegerBinary(t),
		KafkaLib: lib, KafkaTools: kafkaToolsJar(ctx, t), JavaHome: filepath.Dir(filepath.Dir(find("java"))),
		Sluice: sluice, Engine: engine, Client: find("clickhouse-client"), GoRoot: goEnv(t, "GOROOT"), Modules: modules(t), Compiled: compiled(t),
	}
}
