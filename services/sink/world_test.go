package sink

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/IBM/sarama"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/playground/clickhouse/clickhousetest"
	kafkadev "sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/service"
)

func TestMain(m *testing.M) {
	// The producer of the tests measures itself, by a goroutine that the process has once.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

const patience = 2 * time.Minute

// world is a pipeline with real parts: a NATS server, an engine, a broker.
type world struct {
	t        *testing.T
	js       jetstream.JetStream
	nc       *nats.Conn
	nats     *natstest.Server
	broker   *kafkadev.Broker
	producer sarama.SyncProducer
	sql      driver.Conn
	database string
	record   *controlv1.PipelineRecord
	writer   *fencedlog.Writer
	stage    string // whose log the sink reads
	offset   int64  // of the next event, with logOnly
	logOnly  bool   // events go to the log, not to Kafka, which is in this process's memory
}

// newWorld makes a table that takes ids below 1,000,000.
func newWorld(t *testing.T, lanes uint32) *world {
	t.Helper()
	w := &world{t: t, nats: natstest.New(t), stage: fencedlog.Ingest}
	addr, database := clickhousetest.StartDB(t)
	w.database = database
	var err error
	w.sql, err = driver.Open(&driver.Options{Addr: []string{addr}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.sql.Close() })
	require.NoError(t, w.sql.Exec(t.Context(), "CREATE TABLE "+database+`.t (id UInt64, text String, n Int32 DEFAULT 7,
		CONSTRAINT small CHECK id < 1000000) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000`))

	w.nc, err = nats.Connect(w.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	require.NoError(t, err)
	t.Cleanup(w.nc.Close)
	w.js, err = jetstream.New(w.nc)
	require.NoError(t, err)
	for _, stage := range []string{fencedlog.Ingest, fencedlog.DeadLetters} {
		require.NoError(t, fencedlog.Ensure(t.Context(), w.js, fencedlog.Log{Pipeline: "p", Stage: stage}, fencedlog.Limits{}))
	}
	_, err = w.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: checkpoint.Bucket("p")})
	require.NoError(t, err)

	w.broker = kafkatest.OpenFake(t, kafkadev.Config{Topics: map[string]int32{"events": 1}})
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	w.producer, err = sarama.NewSyncProducer([]string{w.broker.Addr()}, config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.producer.Close() })

	w.record = &controlv1.PipelineRecord{
		Uid: "u1", Generation: 1, Desired: controlv1.DesiredState_RUNNING,
		Spec: &controlv1.Pipeline{
			Id: "p", Lanes: lanes,
			Source: &controlv1.Source{Kafka: &controlv1.KafkaSource{Brokers: []string{w.broker.Addr()}, Topic: "events"}},
			Sink:   &controlv1.Sink{Clickhouse: &controlv1.ClickHouseSink{Addr: []string{addr}, Database: database, Table: "t"}},
			Batch:  &controlv1.Batch{Rows: 1000, Bytes: 1 << 20, MaxDelay: durationpb.New(10 * time.Millisecond)},
		},
		Schemas: []*controlv1.Schema{{Revision: 1, Columns: []*controlv1.SchemaColumn{
			{Name: "id", Type: "UInt64", From: "id"}, {Name: "text", Type: "String", From: "text"},
			{Name: "n", Type: "Int32", From: "n", DefaultExpression: "7"},
		}}},
	}
	w.open()
	return w
}

func (w *world) log() fencedlog.Log { return fencedlog.Log{Pipeline: "p", Stage: w.stage} }

// open becomes the writer of the log.
func (w *world) open() {
	w.t.Helper()
	all := make([]int, w.record.GetSpec().GetLanes())
	for i := range all {
		all[i] = i
	}
	var err error
	w.writer, _, err = fencedlog.Open(w.t.Context(), w.js, w.log(), "0", fencedlog.Options{Lanes: all})
	require.NoError(w.t, err)
}

// owner is what libs/lanes is to a lane.
type owner struct {
	checkpoints chan chan<- error
	mu          sync.Mutex
	status      *stagev1.UnitStatus // guarded by mu
}

func newOwner() *owner {
	return &owner{checkpoints: make(chan chan<- error), status: &stagev1.UnitStatus{}}
}

func (o *owner) Report(change func(*stagev1.UnitStatus)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o.status)
}

func (o *owner) Working(context.Context)          {}
func (o *owner) Checkpoints() <-chan chan<- error { return o.checkpoints }

func (o *owner) snapshot() *stagev1.UnitStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	return proto.CloneOf(o.status)
}

// settled is how many rows the lane has dealt with.
func (o *owner) settled() uint64 {
	s := o.snapshot()
	return s.GetTally().GetRows() + s.GetTally().GetDeadLetters()
}

// waitFor waits until so many rows are settled, however slow the machine is: what must not take long is the next step.
func (o *owner) waitFor(t *testing.T, rows int) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last, since := o.settled(), time.Now()
	for last != uint64(rows) {
		<-tick.C
		if now := o.settled(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > patience {
			t.Fatalf("%d rows to be settled, %d are, and none for %s: %v", rows, last, patience, o.snapshot())
		}
	}
}

// start runs a lane of an instance; stop ends it for a cause and returns what it returned.
func (w *world) start(o *owner, instance string, index int, js jetstream.JetStream) (stop func(error) error) {
	w.t.Helper()
	return start(w.t, w.lane(o, instance, index, js))
}

func start(t *testing.T, l *lane) (stop func(error) error) {
	t.Helper()
	return startThen(t, l, func() {})
}

// startThen is start, and calls then when the lane has ended.
func startThen(t *testing.T, l *lane, then func()) (stop func(error) error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() {
		err := l.run(ctx)
		then()
		done <- err
	}()
	var once sync.Once
	var result error
	stop = func(cause error) error {
		once.Do(func() {
			cancel(cause)
			result = <-done
		})
		return result
	}
	t.Cleanup(func() { _ = stop(context.Canceled) })
	return stop
}

func (w *world) lane(o *owner, instance string, index int, js jetstream.JetStream) *lane {
	s, err := New(service.Deps{Instance: instance, NATS: w.nc, JS: js, Log: slog.New(slog.DiscardHandler)}, nil)
	require.NoError(w.t, err)
	l, err := s.newLane(o, w.record, index, slog.New(slog.DiscardHandler))
	require.NoError(w.t, err)
	return l
}

// table is "rows/distinct ids" of the table.
func (w *world) table() string {
	w.t.Helper()
	return w.ask("SELECT concat(toString(count()), '/', toString(uniqExact(id))) FROM " + w.database + ".t")
}

func (w *world) ask(sql string) (out string) {
	w.t.Helper()
	require.NoError(w.t, w.sql.QueryRow(context.Background(), sql).Scan(&out))
	return out
}

// letters are all dead letters of the pipeline, in the log's order.
func (w *world) letters() (out []*eventv1.DeadLetter) {
	w.t.Helper()
	stream, err := w.js.Stream(w.t.Context(), fencedlog.Log{Pipeline: "p", Stage: fencedlog.DeadLetters}.Stream())
	require.NoError(w.t, err)
	last := stream.CachedInfo().State.LastSeq
	for seq := uint64(1); seq <= last; seq++ {
		msg, err := stream.GetMsg(w.t.Context(), seq)
		require.NoError(w.t, err)
		var b eventv1.DeadLetterBatch
		if msg.Header.Get("Sluice-Position") == "" {
			continue // a fence
		}
		require.NoError(w.t, proto.Unmarshal(msg.Data, &b))
		out = append(out, b.GetLetters()...)
	}
	return out
}

// position is the lane's position as it is stored.
func (w *world) position(index int) *eventv1.SinkPosition {
	w.t.Helper()
	kv, err := w.js.KeyValue(w.t.Context(), checkpoint.Bucket("p"))
	require.NoError(w.t, err)
	entry, err := kv.Get(w.t.Context(), positionKey(index))
	require.NoError(w.t, err)
	var p eventv1.SinkPosition
	require.NoError(w.t, proto.Unmarshal(entry.Value(), &p))
	return &p
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	require.NoError(t, err)
	return data
}
