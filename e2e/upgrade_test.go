//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// The format of batches that nobody knows yet but the next version.
const nextFormat = 3

// nextVersion builds ingestor, dedup and sink of a version to come: this one, but that it writes batches of a newer format, and
// reads them.
func nextVersion(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	edit := func(file, before, after string) {
		path, err := filepath.Abs("../libs/batch/" + file)
		require.NoError(t, err)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(text), before), "%s: %s", file, before)
		changed := filepath.Join(dir, file)
		require.NoError(t, os.WriteFile(changed, []byte(strings.Replace(string(text), before, after, 1)), 0o600))
		replace[path] = changed
	}
	edit("check.go", "v.Format > FormatJoin {", fmt.Sprintf("v.Format > %d {", nextFormat))
	edit("encode.go", "appendVarint(dst, 1, Format)", fmt.Sprintf("appendVarint(dst, 1, %d)", nextFormat))
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))
	out := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-overlay", file, "-o", out+string(filepath.Separator),
		"./services/ingestor/cmd/ingestor", "./services/dedup/cmd/dedup", "./services/sink/cmd/sink")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	said, err := build.CombinedOutput()
	require.NoError(t, err, "%s", said)
	return out
}

// A rolling upgrade in the worst order, the writers first: a service that does not know the format of a batch stands still and says
// so, across restarts; it skips nothing and makes nothing a dead letter; and the version that knows it goes on where it stood, in logs
// that both versions have written.
func TestRollingUpgrade(t *testing.T) {
	next := nextVersion(t)
	kafka := kafkatest.StartFake(t)
	s := stack.Run(t, bin(t))
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec("CREATE TABLE users (id UInt64, name String) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000")
	const partitions = 4
	producer := stack.NewProducer(t, kafka, "users", partitions)
	s.Apply(fmt.Sprintf(`
id: users
lanes: 2
source: {kafka: {brokers: ["%s"], topic: users}}
dedup: {key: [id], window: 24h}
sink: {clickhouse: {addr: ["%s"], table: users}}
batch: {max_delay: 50ms}
`, kafka, s.ClickHouseAddr))
	var want []string
	// send sends n new events, and with each the one of a round ago once more, whoever wrote that into the log.
	send := func(n int) {
		for range n {
			id := len(want)
			want = append(want, fmt.Sprintf("%d|user %d", id, id))
			producer.Send(int32(id%partitions), nil, fmt.Appendf(nil, `{"id":%d,"name":"user %d"}`, id, id))
			if again := id - n; again >= 0 {
				producer.Send(int32(again%partitions), nil, fmt.Appendf(nil, `{"id":%d,"name":"again"}`, again))
			}
		}
		producer.Flush()
	}
	upgrade := func(service string) *stack.Process {
		addrs := stack.FreeAddrs(t, 2)
		p := stack.NewProcess(t, "next "+service, filepath.Join(next, service), []string{
			"--nats", "nats://" + s.NATSAddr, "--grpc", addrs[0], "--http", addrs[1], "--name", "next-" + service,
		}, nil)
		p.Start()
		stack.WaitReady(t, p.Name, addrs[1])
		return p
	}
	owns := func(stage, owner string, units int) {
		stack.Await(t, stack.Up, owner+" takes part", func() (bool, any) {
			owners := s.Status("users").Owners(stage)
			return owners[owner] >= units, owners
		})
	}
	standsStill := func(stage string) {
		stack.Await(t, stack.Up, stage+" says that it does not know the format", func() (bool, any) {
			errors := s.Status("users").Errors
			text := strings.Join(errors, "\n")
			return strings.Contains(text, stage) && strings.Contains(text, fmt.Sprintf("unknown batch format: %d", nextFormat)), errors
		})
	}
	send(1000)
	s.Wait("users", stack.Up)
	requireRows(t, want, table.Rows("SELECT id, name FROM users"))

	// Both versions of the ingestor write, each its partitions.
	upgrade("ingestor")
	owns("ingest", "next-ingestor", 1)
	owns("ingest", "ingestor", 1)
	send(1000)
	standsStill("dedup")
	s.Service("dedup").Kill()
	s.Service("dedup").Start()
	s.WaitReady("dedup")
	standsStill("dedup")

	upgrade("dedup")
	require.Zero(t, s.Service("dedup").Stop())
	standsStill("sink")
	s.Service("sink").Kill()
	s.Service("sink").Start()
	s.WaitReady("sink")
	standsStill("sink")
	held := table.Count("users")
	require.GreaterOrEqual(t, held, 1000)
	require.Less(t, held, len(want), "the log is mixed: what the old sink does not know waits")

	upgrade("sink")
	require.Zero(t, s.Service("sink").Stop())
	s.Wait("users", 2*time.Minute)
	require.Zero(t, s.Service("ingestor").Stop())
	owns("ingest", "next-ingestor", partitions)
	send(1000)
	s.Wait("users", 2*time.Minute)
	requireRows(t, want, table.Rows("SELECT id, name FROM users"))
	status := s.Calm("users")
	require.EqualValues(t, len(want), status.RowsOut)
	require.EqualValues(t, len(want)-1000, status.Duplicates)
	require.Zero(t, status.DeadLetters)
	require.Empty(t, s.DeadLetters("users"))
}
