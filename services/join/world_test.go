package join

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	kafkadev "sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/service"
)

func TestMain(m *testing.M) {
	// sarama measures its requests, by a goroutine that the process has once.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// world is the logs and the bucket of a pipeline that joins orders with users, on a real server.
type world struct {
	t      *testing.T
	nats   *natstest.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	record *controlv1.PipelineRecord
	dir    string
	broker *kafkadev.Broker
}

func newWorld(t *testing.T, change func(*controlv1.Join)) *world {
	t.Helper()
	server := natstest.New(t)
	nc, js := natstest.Connect(t, server.URL())
	broker := kafkatest.OpenFake(t, kafkadev.Config{Topics: map[string]int32{"orders": 2, "users": 2}})
	source := func(topic string) *controlv1.Source {
		return &controlv1.Source{Kafka: &controlv1.KafkaSource{Brokers: []string{broker.Addr()}, Topic: topic}}
	}
	w := &world{t: t, nats: server, nc: nc, js: js, dir: t.TempDir(), broker: broker}
	join := &controlv1.Join{
		Left: "orders", Right: "users", On: []*controlv1.JoinOn{{Left: "user", Right: "id"}}, Window: durationpb.New(10 * time.Second),
		Grace: durationpb.New(2 * time.Second), Idle: durationpb.New(5 * time.Second), Kind: controlv1.Join_INTERVAL, Type: controlv1.Join_LEFT,
	}
	if change != nil {
		change(join)
	}
	w.record = &controlv1.PipelineRecord{
		Uid: "u", Generation: 1, Desired: controlv1.DesiredState_RUNNING,
		Spec: &controlv1.Pipeline{
			Id: "p", Lanes: 1, Join: join, Sources: map[string]*controlv1.Source{"orders": source("orders"), "users": source("users")},
		},
		Schemas: []*controlv1.Schema{{Revision: 1, Columns: []*controlv1.SchemaColumn{
			{Name: "order", Type: "String", Source: "orders"},
			{Name: "name", Type: "Nullable(String)", Source: "users"},
			{Name: "amount", Type: "Int64", Source: "orders"},
			{Name: "age", Type: "UInt8", Source: "users"},
			{Name: "plan", Type: "LowCardinality(String)", Source: "users", DefaultExpression: "'free'"},
		}}},
	}
	for _, stage := range []string{fencedlog.Ingest, fencedlog.Join, fencedlog.DeadLetters} {
		require.NoError(t, fencedlog.Ensure(t.Context(), js, fencedlog.Log{Pipeline: "p", Stage: stage}, fencedlog.Limits{}))
	}
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: checkpoint.Bucket("p")})
	require.NoError(t, err)
	return w
}

func (w *world) log(stage string) fencedlog.Log { return fencedlog.Log{Pipeline: "p", Stage: stage} }

// owner stands for the lane manager.
type owner struct {
	mu     sync.Mutex
	status stagev1.UnitStatus // guarded by mu
	asks   chan chan<- error
}

func newOwner() *owner { return &owner{asks: make(chan chan<- error)} }

func (o *owner) Report(change func(*stagev1.UnitStatus)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(&o.status)
}

func (o *owner) Running() {
	o.Report(func(s *stagev1.UnitStatus) { s.Condition, s.LastError = stagev1.UnitStatus_RUNNING, "" })
}

func (o *owner) Checkpoints() <-chan chan<- error { return o.asks }

func (o *owner) snapshot() *stagev1.UnitStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	return proto.CloneOf(&o.status)
}

// running runs the lane; stop ends it with a cause and returns what it did.
func (w *world) running(o *owner, js jetstream.JetStream, interval time.Duration) (stop func(cause error) error) {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	return w.runningIn(ctx, cancel, o, js, interval)
}

func (w *world) runningIn(ctx context.Context, cancel context.CancelCauseFunc, o *owner, js jetstream.JetStream, interval time.Duration) (stop func(cause error) error) {
	log := slog.New(slog.DiscardHandler)
	j, err := New(service.Deps{Instance: "i", NATS: w.nc, JS: js, Log: log}, nil, w.dir)
	require.NoError(w.t, err)
	done := make(chan error, 1)
	go func() { done <- j.run(ctx, o, w.record, 0, log, interval) }()
	return func(cause error) error {
		cancel(cause)
		return <-done
	}
}

// covered waits until the lane has folded the whole input, however slow the machine is, as long as it gets on. One message
// may be 100 000 rows to restore or to put out.
func (w *world) covered(o *owner) *stagev1.UnitStatus {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), w.log(fencedlog.Ingest).Stream())
	require.NoError(w.t, err)
	last, err := stream.GetLastMsgForSubject(w.t.Context(), w.log(fencedlog.Ingest).LaneFilter(0))
	require.NoError(w.t, err)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	s, since := o.snapshot(), time.Now()
	for s.GetPosition() < last.Sequence {
		<-tick.C
		now := o.snapshot()
		if now.GetPosition() != s.GetPosition() {
			since = time.Now()
		}
		s = now
		if time.Since(since) > 3*time.Minute {
			w.t.Fatalf("stuck: %v", s)
		}
	}
	return s
}
