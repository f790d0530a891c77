package control_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/libs/spec"
	"sluice/services/control"
)

// plant is a control service as users reach it, and what it works with.
type plant struct {
	t        *testing.T
	client   controlv1.PipelineServiceClient
	nats     string
	js       jetstream.JetStream
	registry *registry.Registry
	kafka    string
	admin    *kadm.Client
	logs     *syncBuffer
	stop     func() // ends the service, not its parts
}

// quick keeps tests short: units that do not answer are given up soon.
var quick = control.Config{StopTimeout: 2 * time.Second, CheckEvery: 300 * time.Millisecond, ProbeTimeout: 10 * time.Second}

// newPlant starts NATS, a broker and the service. The test fails when goroutines are left of them.
func newPlant(t *testing.T) *plant {
	t.Helper()
	return newPlantOn(t, func() string { return natstest.Start(t) })
}

// newPlantOn does so with the NATS that the test starts when it is told to.
func newPlantOn(t *testing.T, nats func() string) *plant {
	t.Helper()
	here := goleak.IgnoreCurrent()
	meters := goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick") // sarama's, one a process
	// The NATS server's own, which it leaves when a stream is made while it stops.
	flush := goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop")
	ticks := goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1")
	t.Cleanup(func() { goleak.VerifyNone(t, here, meters, flush, ticks) })
	p := &plant{t: t, nats: nats(), kafka: kafkatest.StartFake(t), logs: &syncBuffer{}}
	_, p.js = natstest.Connect(t, p.nats)
	r, err := registry.Open(t.Context(), p.js)
	require.NoError(t, err)
	p.registry = r
	client, err := kgo.NewClient(kgo.SeedBrokers(p.kafka))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	p.admin = kadm.NewClient(client)
	p.start(quick)
	return p
}

// start starts the service, after stop once more.
func (p *plant) start(config control.Config) {
	p.t.Helper()
	p.client, p.stop = serve(p.t, p.nats, config, p.logs, true)
}

// serve runs a control service through the shell of services and dials it.
func serve(t *testing.T, natsURL string, config control.Config, logs *syncBuffer, ready bool) (controlv1.PipelineServiceClient, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	up := make(chan service.Addresses, 1)
	ended := make(chan error, 1)
	options := service.Options{Log: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	told := func(a service.Addresses) { up <- a }
	if ready {
		options.OnReady = told
	} else {
		options.OnListen = told
	}
	settings := service.DefaultConfig("control")
	settings.NATS, settings.GRPC, settings.HTTP, settings.Name = natsURL, "127.0.0.1:0", "127.0.0.1:0", "test"
	definition := service.Definition{
		Name: "control", GRPC: []*grpc.ServiceDesc{&controlv1.PipelineService_ServiceDesc},
		Build: func(ctx context.Context, d service.Deps) (service.Service, error) {
			r, err := registry.Open(ctx, d.JS)
			if err != nil {
				return nil, err
			}
			return control.New(d, r, config)
		},
	}
	go func() { ended <- service.Run(ctx, settings, options, definition) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-ended)
		})
	}
	t.Cleanup(stop)
	var addresses service.Addresses
	select {
	case addresses = <-up:
	case err := <-ended:
		ended <- err
		t.Fatalf("control ended: %v", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("control is not up")
	}
	conn, err := grpc.NewClient(addresses.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return controlv1.NewPipelineServiceClient(conn), stop
}

// topic makes a topic and fills its partitions in turn.
func (p *plant) topic(name string, partitions int32, events ...string) {
	p.t.Helper()
	made, err := p.admin.CreateTopic(p.t.Context(), partitions, 1, nil, name)
	require.NoError(p.t, err)
	require.NoError(p.t, made.Err)
	p.produce(name, partitions, events...)
}

func (p *plant) produce(name string, partitions int32, events ...string) {
	p.t.Helper()
	// A client of its own: one that has known a topic does not see that it was made anew.
	producer, err := kgo.NewClient(kgo.SeedBrokers(p.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(p.t, err)
	defer producer.Close()
	for i, event := range events {
		r := &kgo.Record{Topic: name, Partition: int32(i) % partitions, Value: []byte(event)}
		require.NoError(p.t, producer.ProduceSync(p.t.Context(), r).FirstErr())
	}
}

// spec reads a specification in which KAFKA, CH and DB stand for the addresses and the database.
func parse(t *testing.T, text string, replace ...string) *controlv1.Pipeline {
	t.Helper()
	p, err := spec.Parse("test.yaml", []byte(strings.NewReplacer(replace...).Replace(text)))
	require.NoError(t, err)
	return p
}

func (p *plant) create(pipeline *controlv1.Pipeline) *controlv1.CreateResponse {
	p.t.Helper()
	resp, err := p.client.Create(p.t.Context(), &controlv1.CreateRequest{Pipeline: pipeline})
	require.NoError(p.t, err)
	return resp
}

// execute runs SQL.
func execute(t *testing.T, addr string, statements ...string) {
	t.Helper()
	conn, err := driver.Open(&driver.Options{Addr: []string{addr}})
	require.NoError(t, err)
	defer conn.Close()
	for _, sql := range statements {
		require.NoError(t, conn.Exec(t.Context(), sql), sql)
	}
}

// streams are the names of the pipeline's streams, its bucket's too.
func (p *plant) streams(id string) []string {
	p.t.Helper()
	var found []string
	names := p.js.StreamNames(p.t.Context())
	for name := range names.Name() {
		if strings.HasPrefix(name, "sluice_"+id+"_") || name == "KV_sluice_"+id+"_state" {
			found = append(found, name)
		}
	}
	require.NoError(p.t, names.Err())
	return found
}

func complete(id string) []string {
	return []string{"sluice_" + id + "_ingest", "sluice_" + id + "_dedup", "sluice_" + id + "_dlq", "sluice_" + id + "_receipts", "KV_sluice_" + id + "_state"}
}

// golden compares with a file in testdata; SLUICE_UPDATE_GOLDEN=1 writes it. replace hides what differs
// from run to run.
func golden(t *testing.T, name, got string, replace ...string) {
	t.Helper()
	got = strings.NewReplacer(replace...).Replace(got) + "\n"
	path := filepath.Join("testdata", name)
	if os.Getenv("SLUICE_UPDATE_GOLDEN") == "1" {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// syncBuffer takes the logs of the service's goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func events(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`{"event_id":"e%d","user":{"city":"Bern"},"amount":%d,"extra":1}`, i, i)
	}
	return list
}

func replaceDB(text, db string) string { return strings.ReplaceAll(text, "DB", db) }
