//go:build unix

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"sluice/e2e/internal/stack"
)

// The exit codes that scripts rely on.
const (
	usage       = 2
	notFound    = 3
	unavailable = 4
	timedOut    = 5
)

// The playground as a user has it: one command, a file with its addresses, a pipeline of ten lines, and all that the
// command line can do with it.
func TestPlayground(t *testing.T) {
	file := filepath.Join(t.TempDir(), "addresses.json")
	dev := stack.NewProcess(t, "dev", filepath.Join(bin(t), "sluice"), []string{"dev", "--addresses", file}, nil)
	dev.Start()
	var at map[string]string
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		require.NoError(t, json.Unmarshal(b, &at), "the file is never half written")
		return true
	}, stack.Up, 50*time.Millisecond, "sluice dev does not write its addresses")
	require.ElementsMatch(t, []string{"kafka", "clickhouse", "nats", "grpc", "http"}, slices.Collect(maps.Keys(at)))
	for _, part := range []string{"grpcurl", "clickhouse-client", "kcat", at["kafka"], at["grpc"]} {
		require.Eventually(t, func() bool { return strings.Contains(dev.Log(), part) }, stack.Up, 20*time.Millisecond,
			"dev does not say %q", part)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + at["http"] + path)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode, path)
	}
	require.Subset(t, reflected(t, at["grpc"]),
		[]string{"sluice.control.v1.PipelineService", "sluice.stage.v1.StageService", "grpc.health.v1.Health"})

	cli := stack.NewCLI(t, bin(t), at["grpc"])
	table := stack.OpenSQL(t, at["clickhouse"])
	table.Exec(`CREATE TABLE user_events (event_id String, name String) ENGINE = MergeTree ORDER BY event_id
		SETTINGS non_replicated_deduplication_window = 1000`)
	producer := stack.NewProducer(t, at["kafka"], "user-events", 3)
	sent := 0
	produce := func(n int) {
		for range n {
			event := fmt.Appendf(nil, `{"event_id":"e%d","name":"name %d"}`, sent, sent)
			for range 1 + sent%2 {
				producer.Send(int32(sent%3), nil, event)
			}
			sent++
		}
		producer.Flush()
	}
	produce(300)
	spec := fmt.Sprintf(`id: user-events
source: {kafka: {brokers: ["%s"], topic: user-events}}
dedup: {key: [event_id], window: 24h}
sink: {clickhouse: {addr: ["%s"], table: user_events}}
`, at["kafka"], at["clickhouse"])
	path := filepath.Join(t.TempDir(), "pipeline.yaml")
	require.NoError(t, os.WriteFile(path, []byte(spec), 0o600))
	require.Contains(t, cli.Do("apply", "-f", path), "pipeline user-events created: exactly once")
	cli.Wait("user-events", 2*time.Minute)
	require.Equal(t, 300, table.Count("user_events"))
	requireStatusContract(t, cli.Do("status", "user-events", "-o", "json"), map[string]float64{
		"lag": 0, "records_in": 450, "duplicates": 150, "dead_letters": 0, "rows_out": 300,
	})
	require.Contains(t, cli.Do("list"), "user-events")
	require.Contains(t, cli.Do("get", "user-events"), "exactly once")
	require.Contains(t, cli.Do("status", "user-events"), "records in")

	// Paused: nothing is read, the lag tells what waits.
	cli.Do("pause", "user-events")
	require.Eventually(t, func() bool { return cli.Status("user-events").State == "PAUSED" }, 2*time.Minute, 50*time.Millisecond)
	produce(100)
	stack.Await(t, 2*time.Minute, "the lag is 150", func() (bool, any) {
		status := cli.Status("user-events")
		return status.Lag == 150, status
	})
	r := cli.Run("", "wait", "user-events", "--timeout", "3s")
	require.Equal(t, timedOut, r.Code, r.Stderr)
	require.Contains(t, r.Stderr, "lag is 150")
	require.Equal(t, 300, table.Count("user_events"))
	cli.Do("resume", "user-events")
	cli.Wait("user-events", 2*time.Minute)
	require.Equal(t, 400, table.Count("user_events"))

	// Updated in place: the state stays, so what comes again is known.
	require.Contains(t, cli.Apply(spec+"batch: {max_delay: 20ms}\n"), "pipeline user-events updated")
	require.Contains(t, cli.Do("get", "user-events", "--spec"), "20ms")
	producer.Send(0, nil, []byte(`{"event_id":"e0","name":"name 0"}`))
	produce(10)
	cli.Wait("user-events", 2*time.Minute)
	require.Equal(t, 410, table.Count("user_events"))
	require.EqualValues(t, 410, cli.Status("user-events").RowsOut)
	// What is printed can be applied again.
	require.Contains(t, cli.Apply(cli.Do("get", "user-events", "--spec")), "updated")

	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"status", "absent"}, notFound, "absent"},
		{[]string{"get", "absent"}, notFound, "absent"},
		{[]string{"delete", "absent"}, notFound, "absent"},
		{[]string{"pause", "absent"}, notFound, "absent"},
		{[]string{"wait", "absent"}, notFound, "absent"},
		{[]string{"dlq", "ls", "absent"}, notFound, "absent"},
		{[]string{"status"}, usage, "id"},
		{[]string{"nonsense"}, usage, "nonsense"},
		{[]string{"status", "user-events", "-o", "xml"}, usage, "json"},
		{[]string{"apply"}, usage, "-f"},
		{[]string{"apply", "-f", "/nowhere.yaml"}, usage, "/nowhere.yaml"},
		{[]string{"--server", stack.FreeAddrs(t, 1)[0], "list"}, unavailable, "SLUICE_SERVER"},
	} {
		r := cli.Run("", c.args...)
		require.Equal(t, c.code, r.Code, "sluice %v: %s", c.args, r.Stderr)
		require.Contains(t, r.Stderr, c.says, "sluice %v", c.args)
		require.Empty(t, r.Stdout, "sluice %v", c.args)
	}

	// Deleted: nothing of the pipeline is left in NATS and Kafka; the table stays.
	require.NotEmpty(t, traces(t, at["nats"], producer))
	cli.Do("delete", "user-events")
	stack.Await(t, stack.Up, "nothing is left", func() (bool, any) { // leases are given back a moment after their lanes have stopped
		left := traces(t, at["nats"], producer)
		return len(left) == 0, left
	})
	require.Equal(t, notFound, cli.Run("", "status", "user-events").Code)
	require.Equal(t, 410, table.Count("user_events"))

	require.Zero(t, dev.Stop(), "dev ends in good order")
}

// requireStatusContract checks the keys and types that users' scripts rely on.
func requireStatusContract(t *testing.T, text string, numbers map[string]float64) {
	t.Helper()
	var status map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &status))
	require.Equal(t, "RUNNING", status["state"])
	for key, want := range numbers {
		require.Equal(t, want, status[key], key) // a JSON number, never a string
	}
}

// traces are the streams, buckets and consumer groups that carry the pipeline's name.
func traces(t *testing.T, url string, producer *stack.Producer) []string {
	t.Helper()
	conn, err := nats.Connect(url)
	require.NoError(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var found []string
	names := js.StreamNames(ctx) // buckets are streams too
	for name := range names.Name() {
		if strings.Contains(name, "user-events") {
			found = append(found, "stream "+name)
		}
	}
	require.NoError(t, names.Err())
	for _, bucket := range []string{"sluice_pipelines", "sluice_leases", "sluice_status"} {
		kv, err := js.KeyValue(ctx, bucket)
		require.NoError(t, err)
		keys, err := kv.ListKeys(ctx)
		require.NoError(t, err)
		for key := range keys.Keys() {
			if strings.Contains(key, "user-events") {
				found = append(found, "key "+key)
			}
		}
	}
	groups, err := producer.Admin.ListGroups(ctx)
	require.NoError(t, err)
	for _, group := range groups.Groups() {
		if strings.Contains(group, "user-events") {
			found = append(found, "group "+group)
		}
	}
	return found
}

// reflected are the services that a server tells of, as grpcurl lists them.
func reflected(t *testing.T, addr string) []string {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	info, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	require.NoError(t, err)
	require.NoError(t, info.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}))
	resp, err := info.Recv()
	require.NoError(t, err)
	var names []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return names
}
