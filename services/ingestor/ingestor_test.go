package ingestor

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/libs/native"
	"sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/libs/spec"
)

// world is a Kafka, a NATS and a pipeline without its other stages.
type world struct {
	t        *testing.T
	ctx      context.Context
	kafka    string
	broker   *kafka.Broker
	nats     *natstest.Server
	js       jetstream.JetStream
	registry *registry.Registry
	admin    *kadm.Client
	rec      *controlv1.PipelineRecord
}

func newWorld(t *testing.T, partitions int32) *world {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, broker: kafkatest.OpenFake(t, kafka.Config{}), nats: natstest.New(t)}
	w.kafka = w.broker.Addr()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	w.admin = kadm.NewClient(client)
	w.createTopic(partitions)

	nc := w.connect()
	w.js, err = jetstream.New(nc)
	require.NoError(t, err)
	w.registry, err = registry.Open(ctx, w.js)
	require.NoError(t, err)
	p, err := spec.Parse("test", fmt.Appendf(nil, `
id: events
source: {kafka: {brokers: [%q], topic: events}}
dedup: {key: [id], window: 24h}
sink: {clickhouse: {addr: [localhost:9000], table: events}}
batch: {max_delay: 20ms}
`, w.kafka))
	require.NoError(t, err)
	w.rec = &controlv1.PipelineRecord{
		Spec: spec.WithDefaults(p), Uid: "u1", Desired: controlv1.DesiredState_RUNNING, Generation: 1,
		Schemas: []*controlv1.Schema{{Revision: 1, Columns: []*controlv1.SchemaColumn{
			{Name: "id", Type: "UInt64", From: "id"}, {Name: "text", Type: "String", From: "text"},
		}}},
	}
	for _, stage := range []string{fencedlog.Ingest, fencedlog.DeadLetters} {
		require.NoError(t, fencedlog.Ensure(ctx, w.js, fencedlog.Log{Pipeline: "events", Stage: stage}, fencedlog.Limits{}))
	}
	_, err = w.registry.Create(ctx, w.rec)
	require.NoError(t, err)
	return w
}

func (w *world) createTopic(partitions int32) {
	_, err := w.admin.CreateTopic(w.ctx, partitions, 1, nil, "events")
	require.NoError(w.t, err)
}

func (w *world) connect() *nats.Conn {
	nc, err := nats.Connect(w.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectBufSize(-1))
	require.NoError(w.t, err)
	w.t.Cleanup(nc.Close)
	return nc
}

// instance is a running ingestor.
type instance struct {
	*Service
	nc   *nats.Conn
	stop context.CancelFunc
	done chan error
}

func (w *world) start(name string) *instance {
	i, _ := w.startFaulty(name, refused, -1)
	return i
}

// startFaulty starts an instance whose durable step numbered at goes wrong.
func (w *world) startFaulty(name string, fault fault, at int64) (*instance, *faultyLog) {
	nc := w.connect()
	js, err := jetstream.New(nc)
	require.NoError(w.t, err)
	reg, err := registry.Open(w.ctx, js)
	require.NoError(w.t, err)
	f := &faultyLog{JetStream: js, fault: fault, at: at, crash: nc.Close, down: make(chan struct{})}
	ctx, cancel := context.WithCancel(w.ctx)
	s, err := New(service.Deps{
		Instance: name, NATS: nc, JS: f, Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)).With("instance", name),
	}, reg)
	require.NoError(w.t, err)
	i := &instance{nc: nc, stop: cancel, done: make(chan error, 1), Service: s}
	i.tune = quick
	go func() { i.done <- i.Run(ctx) }()
	w.t.Cleanup(func() { i.quit(w.t) })
	return i, f
}

func message(offset int64, value string) *sarama.ConsumerMessage {
	return &sarama.ConsumerMessage{Topic: "events", Offset: offset, Value: []byte(value)}
}

// quick makes a consumer group that need not be patient with a network.
func quick(c *sarama.Config) {
	c.Metadata.RefreshFrequency = 250 * time.Millisecond
	c.Metadata.Retry.Max = 2
	c.Metadata.Retry.Backoff = 50 * time.Millisecond
	c.Consumer.Group.Heartbeat.Interval = 50 * time.Millisecond
	c.Consumer.Group.Rebalance.Retry.Backoff = 50 * time.Millisecond
}

// quit stops an instance in good order.
func (i *instance) quit(t *testing.T) {
	i.stop()
	if i.done != nil {
		require.NoError(t, <-i.done)
		i.done = nil
	}
}

// crash takes an instance's NATS away for good: nothing of what it has in hand gets out.
func (i *instance) crash(t *testing.T) {
	i.nc.Close()
	i.quit(t)
}

func (w *world) produce(partition int32, values ...string) {
	var records []*kgo.Record
	for _, v := range values {
		r := &kgo.Record{Topic: "events", Partition: partition, Value: []byte(v)}
		if v == "" {
			r.Value = nil
		}
		records = append(records, r)
	}
	// A client of its own: one that lives on remembers a topic's id and number of partitions.
	producer, err := kgo.NewClient(kgo.SeedBrokers(w.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(900<<10))
	require.NoError(w.t, err)
	defer producer.Close()
	require.NoError(w.t, producer.ProduceSync(w.ctx, records...).FirstErr())
}

func event(id int) string { return fmt.Sprintf(`{"id":%d,"text":"event %d"}`, id, id) }

func events(from, to int) (values []string) {
	for id := from; id < to; id++ {
		values = append(values, event(id))
	}
	return values
}

// settled waits until the positions of all partitions reach the end of the topic.
func (w *world) settled() (tally batch.Tally) {
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka)) // its own, as in produce
	require.NoError(w.t, err)
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(w.ctx, "events")
	require.NoError(w.t, err)
	topics, err := kadm.NewClient(client).ListTopics(w.ctx, "events")
	require.NoError(w.t, err)
	id := topicID(topics["events"].ID)
	var seen []*stagev1.UnitStatus
	defer func() {
		if w.t.Failed() {
			w.t.Log("ends", ends, "statuses", seen)
		}
	}()
	getsThere(w.t, func() (bool, uint64) {
		statuses, err := w.registry.Statuses(w.ctx, "events")
		if err != nil {
			return false, 0
		}
		seen = statuses
		tally = batch.Tally{}
		reached, progress := 0, uint64(0)
		for _, s := range statuses {
			end, _ := ends.Lookup("events", int32(s.GetUnit()))
			if string(s.GetTopicId()) == string(id[:]) && int64(s.GetPosition()) == end.Offset {
				reached++
			}
			progress += s.GetPosition()
			tally.Records += s.GetTally().GetRecords()
			tally.Tombstones += s.GetTally().GetTombstones()
			tally.DeadLetters += s.GetTally().GetDeadLetters()
			tally.Rows += s.GetTally().GetRows()
		}
		return reached == len(ends["events"]), progress
	})
	return tally
}

// getsThere waits for an end, however slow the machine is, as long as there is progress on the way.
func getsThere(t *testing.T, look func() (there bool, progress uint64)) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	there, last := look()
	for since := time.Now(); !there; <-tick.C {
		var progress uint64
		if there, progress = look(); progress != last {
			last, since = progress, time.Now()
		}
		if !there && time.Since(since) > 2*time.Minute {
			t.Fatalf("stuck at %d", last)
		}
	}
}

// logged reads the whole ingest log: the offsets of each partition in each lane, as they stand there.
func (w *world) logged() (offsets map[int32]map[int64]int, ids map[uint64]int) {
	offsets, ids = map[int32]map[int64]int{}, map[uint64]int{}
	log := fencedlog.Log{Pipeline: "events", Stage: fencedlog.Ingest}
	for lane := range int(w.rec.GetSpec().GetLanes()) {
		last := map[string]int64{}
		w.read(log, lane, func(msg fencedlog.Message) {
			var v batch.View
			require.NoError(w.t, v.Parse(msg.Data))
			require.EqualValues(w.t, batch.Format, v.Format, "nothing of joins")
			require.NotZero(w.t, v.Rows, "no heartbeats")
			raw, err := v.RawColumns(nil)
			require.NoError(w.t, err)
			column, _, err := batch.NextColumn(raw)
			require.NoError(w.t, err)
			typ, err := native.ParseType("UInt64")
			require.NoError(w.t, err)
			c := native.NewColumn(typ, false)
			require.NoError(w.t, c.AppendFromWire(column, v.Rows, nil))
			wire := c.AppendWire(nil)
			for row := range v.Rows {
				offset := v.Offset(row)
				writer := fmt.Sprintf("%d/%x", v.Partition, v.TopicID)
				if before, ok := last[writer]; ok {
					require.Greater(w.t, offset, before, "order of partition %d in lane %d", v.Partition, lane)
				}
				last[writer] = offset
				if offsets[v.Partition] == nil {
					offsets[v.Partition] = map[int64]int{}
				}
				offsets[v.Partition][offset]++
				at := len(wire) - 8*v.Rows + 8*row
				id := uint64(0)
				for i := range 8 {
					id |= uint64(wire[at+i]) << (8 * i)
				}
				ids[id]++
				key := uint64(0)
				for i := range 8 {
					key |= uint64(v.Keys[16*row+i]) << (8 * i)
				}
				require.Equal(w.t, lane, batch.Share(key, int(w.rec.GetSpec().GetLanes())))
			}
		})
	}
	return offsets, ids
}

func (w *world) letters() (letters []*eventv1.DeadLetter) {
	w.read(fencedlog.Log{Pipeline: "events", Stage: fencedlog.DeadLetters}, lettersLane, func(msg fencedlog.Message) {
		var b eventv1.DeadLetterBatch
		require.NoError(w.t, proto.Unmarshal(msg.Data, &b))
		letters = append(letters, b.GetLetters()...)
	})
	return letters
}

func (w *world) read(log fencedlog.Log, lane int, each func(fencedlog.Message)) {
	stream, err := w.js.Stream(w.ctx, log.Stream())
	require.NoError(w.t, err)
	info, err := stream.Info(w.ctx, jetstream.WithSubjectFilter(log.LaneFilter(lane)))
	require.NoError(w.t, err)
	var count uint64
	for _, n := range info.State.Subjects {
		count += n
	}
	r, err := fencedlog.OpenReader(w.ctx, w.js, log, lane, info.State.FirstSeq)
	require.NoError(w.t, err)
	defer r.Close()
	for range count {
		msg, err := r.Next(w.ctx)
		require.NoError(w.t, err)
		each(msg)
	}
}

func (w *world) requireOnce(partitions int32, perPartition int) {
	w.t.Helper()
	offsets, _ := w.logged()
	for p := range partitions {
		require.Len(w.t, offsets[p], perPartition, "partition %d", p)
		for offset, n := range offsets[p] {
			require.Equal(w.t, 1, n, "partition %d offset %d", p, offset)
		}
	}
}

func TestEveryRecordOnceThroughCrashesAndTakeOvers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	const rounds, each = 6, 2000
	current := w.start("a")
	for round := range rounds {
		for p := range int32(3) {
			w.produce(p, events(round*each, (round+1)*each)...)
		}
		if round == rounds-1 {
			break
		}
		// Not settled: a crash in the middle of it, then another takes over.
		next := w.start(fmt.Sprintf("instance-%d", round))
		if round%2 == 0 {
			current.crash(t)
		} else {
			current.quit(t)
		}
		current = next
	}
	tally := w.settled()
	require.Equal(t, batch.Tally{Records: 3 * rounds * each, Rows: 3 * rounds * each}, tally)
	w.requireOnce(3, rounds*each)
}

func TestTwoInstancesShareTheTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4)
	a, b := w.start("a"), w.start("b")
	for p := range int32(4) {
		w.produce(p, events(0, 500)...)
	}
	w.settled()
	require.Eventually(t, func() bool { return len(a.Status("")) == 2 && len(b.Status("events")) == 2 }, 2*time.Minute, 50*time.Millisecond)
	require.NoError(t, a.Drain(w.ctx))
	require.Empty(t, a.Status(""))
	for p := range int32(4) {
		w.produce(p, events(500, 1000)...)
	}
	w.settled()
	a.Undrain()
	// A partition is shown as soon as it is being taken, and can be settled once it is read.
	require.Eventually(t, func() bool {
		units, err := a.Checkpoint(w.ctx, "events")
		return err == nil && units == 2
	}, 2*time.Minute, 50*time.Millisecond)
	w.requireOnce(4, 1000)
}

func TestBadRecordsBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.start("a")
	huge := `{"id":3,"text":"` + strings.Repeat("x", 800<<10) + `"}`
	bad := []string{`not json`, `{"text":"no key"}`, `{"id":-1,"text":"x"}`, `{"id":1,"text":"a"} trailing`, "{\"id\":2,\"text\":\"\xff\"}"}
	w.produce(0, event(1), bad[0], "", event(2), bad[1], bad[2], huge, bad[3], bad[4], event(4))
	tally := w.settled()
	require.Equal(t, batch.Tally{Records: 10, Tombstones: 1, DeadLetters: 5, Rows: 4}, tally)
	_, ids := w.logged()
	require.Equal(t, map[uint64]int{1: 1, 2: 1, 3: 1, 4: 1}, ids)
	letters := w.letters()
	require.Len(t, letters, 5)
	for i, letter := range letters {
		require.Equal(t, bad[i], string(letter.GetValue()))
		require.Equal(t, []int64{1, 4, 5, 7, 8}[i], letter.GetOffset())
		require.Equal(t, "ingest", letter.GetStage())
		require.Equal(t, []string{"", "id", "id", "", "text"}[i], letter.GetField(), letter.GetReason())
		require.NotEmpty(t, letter.GetReason())
	}
}

func TestDeadLettersOnceThroughCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for round := range 5 {
		i := w.start(fmt.Sprint(round))
		for chunk := range 10 {
			var values []string
			for n := range 30 {
				if n%3 == 0 {
					values = append(values, "bad")
				} else {
					values = append(values, event(round*1000+chunk*30+n))
				}
			}
			w.produce(0, values...)
		}
		i.crash(t)
	}
	w.start("last")
	tally := w.settled()
	require.Equal(t, batch.Tally{Records: 1500, DeadLetters: 500, Rows: 1000}, tally)
	seen := map[int64]int{}
	for _, letter := range w.letters() {
		seen[letter.GetOffset()]++
	}
	require.Len(t, seen, 500)
	for offset, n := range seen {
		require.Equal(t, 1, n, "offset %d", offset)
	}
}

// A topic that is deleted and made anew starts over; nothing of the new one is skipped.
func TestTopicMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.start("a")
	w.produce(0, events(0, 300)...)
	w.settled()
	_, err := w.admin.DeleteTopics(w.ctx, "events")
	require.NoError(t, err)
	w.createTopic(1)
	w.produce(0, events(1000, 1500)...)
	tally := w.settled()
	require.Equal(t, uint64(800), tally.Records)
	_, ids := w.logged()
	require.Len(t, ids, 800)
	for id, n := range ids {
		require.Equal(t, 1, n, "id %d", id)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	i := w.start("a")
	w.produce(0, events(0, 100)...)
	w.settled()
	desire := func(state controlv1.DesiredState) {
		rec, rev, err := w.registry.Get(w.ctx, "events")
		require.NoError(t, err)
		rec.Desired = state
		_, err = w.registry.Update(w.ctx, rec, rev)
		require.NoError(t, err)
	}
	desire(controlv1.DesiredState_PAUSED)
	require.Eventually(t, func() bool { return len(i.Status("")) == 0 }, 2*time.Minute, 20*time.Millisecond)
	w.produce(0, events(100, 200)...)
	desire(controlv1.DesiredState_RUNNING)
	w.settled()
	w.requireOnce(1, 200)
}

func TestGrowingPartitions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.start("a")
	w.produce(0, events(0, 100)...)
	w.settled()
	_, err := w.admin.CreatePartitions(w.ctx, 2, "events")
	require.NoError(t, err)
	for p := range int32(3) {
		w.produce(p, events(100, 200)...)
	}
	w.settled()
	offsets, _ := w.logged()
	require.Len(t, offsets, 3)
	require.Len(t, offsets[2], 100)
}

func TestNATSRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.start("a")
	w.produce(0, events(0, 1000)...)
	w.nats.Stop()
	w.produce(1, events(0, 1000)...)
	w.nats.Start()
	w.settled()
	w.requireOnce(2, 1000)
}
