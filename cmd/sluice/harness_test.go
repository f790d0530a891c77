package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/libs/playground/clickhouse/clickhousetest"
)

// buffer is written by a command and read by the test at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sluice runs a command line and returns what a shell would see.
func sluice(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err buffer
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	code = run(ctx, args, stdio{strings.NewReader(stdin), &out, &err})
	return code, out.String(), err.String()
}

// process is a command that runs until it is stopped, as by a signal.
type process struct {
	out, err buffer
	cancel   context.CancelFunc
	code     chan int
}

func background(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{code: make(chan int, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	p.cancel = cancel
	go func() { p.code <- run(ctx, args, stdio{strings.NewReader(""), &p.out, &p.err}) }()
	t.Cleanup(func() { p.stop(t) })
	return p
}

// stop ends the command; a second call does nothing.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.cancel()
	select {
	case code, ok := <-p.code:
		if ok {
			close(p.code)
			require.Zero(t, code, p.err.String())
		}
	case <-time.After(2 * time.Minute):
		t.Error("the command does not stop")
	}
}

// dev runs a playground on free ports.
func dev(t *testing.T, args ...string) (addresses, *process) {
	t.Helper()
	clickhousetest.Library(t)
	file := filepath.Join(t.TempDir(), "addresses.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"kafka":"of an earlier run"}`), 0o600))
	const any = "127.0.0.1:0"
	p := background(t, append([]string{"dev", "--addresses", file, "--listen-kafka", any, "--listen-clickhouse", any,
		"--listen-nats", any, "--grpc", any, "--http", any}, args...)...)
	var a addresses
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(b, &a) == nil && a.GRPC != ""
	}, 2*time.Minute, 10*time.Millisecond, "the playground does not come up: %s", &p.err)
	return a, p
}

func execSQL(t *testing.T, addr, query string) {
	t.Helper()
	db, err := clickhouse.Open(&clickhouse.Options{Addr: []string{addr}})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.Exec(t.Context(), query))
}

func count(t *testing.T, addr, query string) (n uint64) {
	t.Helper()
	db, err := clickhouse.Open(&clickhouse.Options{Addr: []string{addr}})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.QueryRow(t.Context(), query).Scan(&n))
	return n
}

func send(t *testing.T, broker, topic string, values ...string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.AllowAutoTopicCreation())
	require.NoError(t, err)
	defer c.Close()
	for _, v := range values {
		require.NoError(t, c.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr())
	}
}

const table1 = `CREATE TABLE IF NOT EXISTS t1 (id String, n UInt64) ENGINE = MergeTree ORDER BY id
	SETTINGS non_replicated_deduplication_window = 100`

func spec1(a addresses, id string) string {
	return `
id: ` + id + `
source: {kafka: {brokers: ["` + a.Kafka + `"], topic: t1}}
dedup: {key: [id], window: 1h}
sink: {clickhouse: {addr: ["` + a.ClickHouse + `"], table: t1}}
`
}
