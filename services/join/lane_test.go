package join

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/jsonread"
	"sluice/libs/lanes"
	"sluice/libs/native"
	kafkadev "sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/service"
	"sluice/libs/spec"
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

// producer is the ingest writer of one partition of a source.
type producer struct {
	w         *world
	source    string
	partition int32
	writer    *fencedlog.Writer
	offset    int64
	max       int64
	has       bool
	revision  uint64
}

func (w *world) producer(source string, partition int32) *producer {
	p := &producer{w: w, source: source, partition: partition, revision: 1}
	var err error
	p.writer, _, err = fencedlog.Open(w.t.Context(), w.js, w.log(fencedlog.Ingest), fmt.Sprintf("%s-%d", source, partition),
		fencedlog.Options{Lanes: []int{0}})
	require.NoError(w.t, err)
	return p
}

// idle appends a batch without rows that says that there has been nothing to read for so long.
func (p *producer) idle(d time.Duration) { p.append(d) }

// event is a row: the values of its source's columns as JSON, "" is missing.
type event struct {
	ms     int64
	key    string
	values []string
}

func keyOf(name string) [2]uint64 {
	if name == "" {
		return [2]uint64{}
	}
	h := xxh3.HashString128(name)
	return [2]uint64{h.Lo, h.Hi}
}

// send appends a batch of events.
func (p *producer) send(events ...event) { p.append(0, events...) }

func (p *producer) append(idle time.Duration, events ...event) {
	t := p.w.t
	t.Helper()
	schema := p.w.record.GetSchemas()[p.revision-1]
	var columns []*native.Column
	for _, c := range spec.Columns(schema, p.source) {
		column, err := newColumn(c)
		require.NoError(t, err)
		columns = append(columns, column)
	}
	var b batch.Builder
	for _, e := range events {
		b.Add(batch.Row{Offset: p.offset, JoinKey: keyOf(e.key), EventMS: e.ms}, batch.Fields{Join: true})
		p.offset++
		if !p.has || e.ms > p.max {
			p.max, p.has = e.ms, true
		}
		for i, c := range columns {
			require.NoError(t, c.AppendJSON(valueOf(t, e.values[i])))
		}
	}
	v := batch.View{
		SchemaRevision: p.revision, Topic: []byte(p.source), Partition: p.partition,
		ArrivalMS: 1_000_000, Source: []byte(p.source), Progress: batch.Progress{MaxEventMS: p.max, HasMax: p.has, Partitions: 1},
	}
	if idle > 0 {
		v.Progress.IdleSinceMS = v.ArrivalMS - idle.Milliseconds()
	}
	if len(events) > 0 {
		b.View(&v, func(dst []byte) []byte {
			for _, c := range columns {
				dst = batch.AppendColumn(dst, c.AppendWire)
			}
			return dst
		})
	}
	_, err := p.writer.Append(t.Context(), 0, strconv.FormatInt(p.offset, 10), v.Append(nil))
	require.NoError(t, err)
}

func valueOf(t testing.TB, text string) jsonread.Value {
	if text == "" {
		return jsonread.Value{}
	}
	if text[0] == '"' {
		return jsonread.Value{Kind: jsonread.String, Raw: []byte(text[1 : len(text)-1])}
	}
	require.NotEqual(t, "null", text)
	return jsonread.Value{Kind: jsonread.Number, Raw: []byte(text)}
}

func order(ms int64, user, id string, amount int) event {
	return event{ms, user, []string{`"` + id + `"`, strconv.Itoa(amount)}}
}

func user(ms int64, id, name string, age int, plan string) event {
	return event{ms, id, []string{name, strconv.Itoa(age), plan}}
}

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

// covered waits until the lane has folded the whole input.
func (w *world) covered(o *owner) *stagev1.UnitStatus {
	w.t.Helper()
	var s *stagev1.UnitStatus
	stream, err := w.js.Stream(w.t.Context(), w.log(fencedlog.Ingest).Stream())
	require.NoError(w.t, err)
	last, err := stream.GetLastMsgForSubject(w.t.Context(), w.log(fencedlog.Ingest).LaneFilter(0))
	require.NoError(w.t, err)
	require.Eventually(w.t, func() bool {
		s = o.snapshot()
		return s.GetPosition() >= last.Sequence
	}, 60*time.Second, 5*time.Millisecond, "%v", o.snapshot())
	return s
}

// joined is a row of the join log.
type joined struct {
	text   string
	origin batch.Origin
}

// output reads the join log's lane 0 as it is now, and checks what holds of all of it.
func (w *world) output() (rows []joined, messages []*batch.View) {
	w.t.Helper()
	log := w.log(fencedlog.Join)
	stream, err := w.js.Stream(w.t.Context(), log.Stream())
	require.NoError(w.t, err)
	info, err := stream.Info(w.t.Context())
	require.NoError(w.t, err)
	positions := map[string]bool{}
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(w.t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // a fence that was replaced
		}
		require.NoError(w.t, err)
		if msg.Subject != log.Subject(0, "0") {
			continue
		}
		v := &batch.View{}
		require.NoError(w.t, v.Parse(msg.Data))
		require.Empty(w.t, v.Source)
		require.Equal(w.t, v.Rows, v.Selected)
		for _, values := range msg.Header {
			for _, value := range values {
				require.False(w.t, strings.HasPrefix(value, fmt.Sprint(v.InputSequence)) && positions[value], "position %s twice", value)
				positions[value] = true
			}
		}
		rows = append(rows, w.decode(v)...)
		messages = append(messages, v)
	}
	return rows, messages
}

func (w *world) decode(v *batch.View) []joined {
	raw, err := v.RawColumns(nil)
	require.NoError(w.t, err)
	schema := w.record.GetSchemas()[v.SchemaRevision-1]
	rows := make([]joined, v.Rows)
	for _, c := range schema.GetColumns() {
		var wire []byte
		wire, raw, err = batch.NextColumn(raw)
		require.NoError(w.t, err)
		typ, err := native.ParseType(c.GetType())
		require.NoError(w.t, err)
		cells := native.NewCells(typ, optional(c))
		require.NoError(w.t, cells.Open(wire, v.Rows))
		for i := range rows {
			rows[i].text += show(c, cells.Cut(nil)) + " "
		}
	}
	require.Empty(w.t, raw)
	for i := range rows {
		rows[i].text = strings.TrimSpace(rows[i].text)
		rows[i].origin = v.Origin(i)
	}
	return rows
}

// show prints a cell of the types that the tests use.
func show(c *controlv1.SchemaColumn, cell []byte) string {
	if optional(c) {
		if cell[0] == 1 {
			return "DEFAULT"
		}
		cell = cell[1:]
	}
	switch c.GetType() {
	case "Nullable(String)":
		if cell[0] == 1 {
			return "NULL"
		}
		return string(cell[2:])
	case "Int64":
		return strconv.FormatInt(int64(binary.LittleEndian.Uint64(cell)), 10)
	case "UInt8":
		return strconv.Itoa(int(cell[0]))
	}
	return string(cell[1:])
}

func texts(rows []joined) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.text)
	}
	return out
}

func (w *world) letters() (out []*eventv1.DeadLetter) {
	w.t.Helper()
	log := w.log(fencedlog.DeadLetters)
	stream, err := w.js.Stream(w.t.Context(), log.Stream())
	require.NoError(w.t, err)
	info, err := stream.Info(w.t.Context())
	require.NoError(w.t, err)
	for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
		msg, err := stream.GetMsg(w.t.Context(), seq)
		if err != nil || msg.Subject != log.Subject(0, "join-0") {
			continue
		}
		var b eventv1.DeadLetterBatch
		require.NoError(w.t, proto.Unmarshal(msg.Data, &b))
		out = append(out, b.GetLetters()...)
	}
	return out
}

func (w *world) produce(topic string, values ...string) {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.broker.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(w.t, err)
	defer client.Close()
	for _, v := range values {
		require.NoError(w.t, client.ProduceSync(w.t.Context(), &kgo.Record{Topic: topic, Value: []byte(v)}).FirstErr())
	}
}

func TestPairsAndUnmatched(t *testing.T) {
	w := newWorld(t, nil)
	o := newOwner()
	stop := w.running(o, w.js, 20*time.Millisecond)
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 5), order(101_000, "bob", "o2", -6), order(101_000, "", "o3", 7))
	users.send(user(95_000, "ann", `"Ann"`, 31, `"pro"`), user(110_000, "ann", "", 32, ""), user(300_000, "", `"nobody"`, 1, ""))
	orders.send(order(300_000, "cy", "o4", 8))
	s := w.covered(o)
	require.Equal(t, map[string]uint64{"orders": 1, "users": 0}, s.GetBufferedRows())
	require.Equal(t, map[string]int64{"orders": 298_000, "users": 298_000}, s.GetWatermarkMs())
	require.EqualValues(t, 7, s.GetTally().GetRecords())
	require.EqualValues(t, 4, s.GetTally().GetRows())
	require.EqualValues(t, 1, s.GetTally().GetMatched())
	require.EqualValues(t, 2, s.GetTally().GetUnmatched())
	require.EqualValues(t, 1, s.GetTally().GetDropped())
	require.NoError(t, stop(lanes.ErrStopping))
	rows, messages := w.output()
	require.Equal(t, []string{"o3 NULL 7 0 DEFAULT", "o1 Ann 5 31 pro", "o1 NULL 5 32 DEFAULT", "o2 NULL -6 0 DEFAULT"}, texts(rows))
	require.Equal(t, batch.Origin{LeftOffset: 0, RightOffset: 1, EventMS: 100_000}, rows[2].origin)
	require.Equal(t, batch.Origin{LeftOffset: 1, RightPartition: batch.NoRight, EventMS: 101_000}, rows[3].origin)
	last := messages[len(messages)-1]
	require.EqualValues(t, 4, last.Tally.Rows)
	require.EqualValues(t, 2, last.Tally.Unmatched)
}

// TestSilence: both topics have fallen silent, and the left row comes out all the same.
func TestSilence(t *testing.T) {
	w := newWorld(t, nil)
	o := newOwner()
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 5))
	users.send(user(100_000, "bob", `"Bob"`, 1, ""))
	for _, d := range []time.Duration{time.Second, 12 * time.Second, 13 * time.Second} {
		orders.idle(d)
		users.idle(d)
	}
	stop := w.running(o, w.js, 20*time.Millisecond)
	require.EqualValues(t, 1, w.covered(o).GetTally().GetUnmatched())
	require.NoError(t, stop(lanes.ErrStopping))
	rows, _ := w.output()
	require.Equal(t, []string{"o1 NULL 5 0 DEFAULT"}, texts(rows))
}

func TestLateRowsAreDeadLetters(t *testing.T) {
	w := newWorld(t, nil)
	w.produce("orders", `{"order":"o1"}`, `{"order":"o2"}`, `{"order":"o3"}`)
	o := newOwner()
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	orders.send(order(100_000, "ann", "o1", 5))
	users.send(user(100_000, "bob", `"Bob"`, 1, ""))
	orders.send(order(97_999, "ann", "o2", 5), order(98_000, "bob", "o3", 5))
	stop := w.running(o, w.js, 20*time.Millisecond)
	s := w.covered(o)
	require.EqualValues(t, 1, s.GetTally().GetLate())
	require.EqualValues(t, 1, s.GetTally().GetDeadLetters())
	require.NoError(t, stop(lanes.ErrStopping))
	letters := w.letters()
	require.Len(t, letters, 1)
	require.Equal(t, "join", letters[0].GetStage())
	require.Equal(t, "orders", letters[0].GetTopic())
	require.EqualValues(t, 1, letters[0].GetOffset())
	require.JSONEq(t, `{"order":"o2"}`, string(letters[0].GetValue()))
	require.Equal(t, "late: its event time 1970-01-01T00:01:37.999Z is before the watermark 1970-01-01T00:01:38.000Z; raise join.grace to take rows that late",
		letters[0].GetReason())
	rows, _ := w.output()
	require.Equal(t, []string{"o3 Bob 5 1 DEFAULT"}, texts(rows))
}

// crasher ends the lane right after the n-th append to the join log: as kill -9 does, but for the acknowledgement, which is never heard.
type crasher struct {
	jetstream.JetStream
	subject string
	at      int
	seen    int
	cancel  context.CancelCauseFunc
	crashed bool
}

func (c *crasher) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if c.crashed {
		return nil, errors.New("crashed")
	}
	ack, err := c.JetStream.PublishMsg(ctx, m, opts...)
	if m.Subject != c.subject {
		return ack, err
	}
	if c.seen++; c.seen == c.at {
		c.crashed = true
		c.cancel(lanes.ErrLost)
		return nil, errors.New("crashed")
	}
	return ack, err
}

// TestHotKeyAndCrashBetweenParts: one left row meets 20 000 right ones, which takes many messages. A crash after each of them repeats none and
// loses none, and no message is larger than it may be.
func TestHotKeyAndCrashBetweenParts(t *testing.T) {
	const hot, each = 20_000, 1000
	w := newWorld(t, func(j *controlv1.Join) { j.Memory = 1 << 20 }) // most of it on disk
	users, orders := w.producer("users", 0), w.producer("orders", 0)
	for n := 0; n < hot; n += each {
		var events []event
		for i := range each {
			events = append(events, user(100_000, "ann", fmt.Sprintf(`"name-%06d-%s"`, n+i, strings.Repeat("x", 80)), 1, `"pro"`))
		}
		users.send(events...)
	}
	orders.send(order(100_000, "ann", "first", 1))
	orders.send(order(100_000, "bob", "other", 1), order(100_000, "ann", "second", 1))
	crashes := 0
	for n := 1; ; n++ {
		o := newOwner()
		ctx, cancel := context.WithCancelCause(t.Context())
		c := &crasher{JetStream: w.js, subject: w.log(fencedlog.Join).Subject(0, "0"), at: 1, cancel: cancel}
		stop := w.runningIn(ctx, cancel, o, c, time.Hour)
		require.Eventually(t, func() bool {
			return ctx.Err() != nil || o.snapshot().GetTally().GetRecords() == hot+3
		}, time.Minute, time.Millisecond)
		if err := stop(lanes.ErrStopping); !c.crashed { // else the fold was ahead of what is appended
			require.NoError(t, err)
			break
		}
		crashes++
		require.Less(t, n, 100)
	}
	require.Greater(t, crashes, 5)
	rows, messages := w.output()
	require.Equal(t, 2*hot, len(rows)) //nolint:testifylint // Len would print them all
	seen := map[string]bool{}
	for i, r := range rows {
		require.False(t, seen[r.text], r.text)
		seen[r.text] = true
		require.EqualValues(t, i%hot, r.origin.RightOffset, "in order")
	}
	for _, m := range messages {
		require.LessOrEqual(t, m.ColumnsSize, partBytes+4096)
	}
}

// TestUpdateBetweenLeftAndRight: a pair of rows from before and after an update of the columns.
func TestUpdateBetweenLeftAndRight(t *testing.T) {
	w := newWorld(t, nil)
	w.record.Schemas = append(w.record.Schemas,
		&controlv1.Schema{Revision: 2, Columns: []*controlv1.SchemaColumn{ // amount is gone, city is new, plan has no DEFAULT, order has one
			{Name: "city", Type: "String", Source: "users"},
			{Name: "plan", Type: "LowCardinality(String)", Source: "users"},
			{Name: "order", Type: "String", Source: "orders", DefaultExpression: "'?'"},
			{Name: "age", Type: "UInt8", Source: "users"},
			{Name: "note", Type: "Nullable(String)", Source: "orders"},
		}},
		&controlv1.Schema{Revision: 3, Columns: []*controlv1.SchemaColumn{ // age has another type
			{Name: "order", Type: "String", Source: "orders"},
			{Name: "age", Type: "Int64", Source: "users"},
		}})
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	users.send(user(100_000, "ann", `"Ann"`, 31, `"pro"`), user(100_000, "bob", "", 32, ""))
	orders.send(order(100_000, "ann", "o1", 5))
	orders.revision = 2
	orders.send(event{100_000, "ann", []string{`"o2"`, ""}}, event{100_000, "bob", []string{"", `"n"`}})
	orders.revision = 3
	orders.send(event{100_000, "ann", []string{`"o3"`}})
	o := newOwner()
	stop := w.running(o, w.js, 20*time.Millisecond)
	w.covered(o)
	require.NoError(t, stop(lanes.ErrStopping))
	rows, messages := w.output()
	require.Equal(t, []string{"o1 Ann 5 31 pro", " pro o2 31 NULL", " DEFAULT 32 n", "o3 Ann 0 31 pro"}, untrimmed(rows))
	var revisions []uint64
	for _, m := range messages {
		revisions = append(revisions, m.SchemaRevision)
	}
	require.Equal(t, []uint64{1, 2, 1}, slices.Compact(revisions))
}

// untrimmed puts the empty first column back that trimming has taken.
func untrimmed(rows []joined) []string {
	out := texts(rows)
	for i := range out {
		if !strings.HasPrefix(out[i], "o") {
			out[i] = " " + out[i]
		}
	}
	return out
}

// TestLargeRows: a pair that no message takes is a dead letter, one that shrinks enough is put out; a replay of what is in the log counts both as before.
func TestLargeRows(t *testing.T) {
	w := newWorld(t, nil)
	w.produce("orders", `{"order":"too large"}`)
	most := int(w.nc.MaxPayload())
	part := most * 2 / 3
	noise := make([]byte, 2*part)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = 'A' + byte(random.IntN(58))%26 | byte(random.IntN(2))<<5
	}
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	users.send(user(100_000, "ann", `"`+string(noise[:part])+`"`, 31, ""))
	users.send(user(100_000, "bob", `"`+strings.Repeat("b", part)+`"`, 32, ""))
	orders.send(event{100_000, "ann", []string{`"` + string(noise[part:]) + `"`, "1"}})
	orders.send(event{100_000, "bob", []string{`"` + strings.Repeat("c", part) + `"`, "2"}}, order(100_000, "bob", "small", 3))
	for range 2 { // the second time from the beginning: there is no checkpoint, but all is in the log
		o := newOwner()
		stop := w.running(o, w.js, time.Hour)
		s := w.covered(o)
		require.EqualValues(t, 2, s.GetTally().GetRows())
		require.EqualValues(t, 1, s.GetTally().GetDeadLetters())
		require.Eventually(t, func() bool {
			rows, _ := w.output()
			return len(rows) == 2 && len(w.letters()) == 1
		}, 60*time.Second, 10*time.Millisecond)
		_ = stop(lanes.ErrLost)
	}
	rows, _ := w.output()
	require.Len(t, rows, 2)
	require.Contains(t, w.letters()[0].GetReason(), fmt.Sprintf("more than a message of %d bytes takes", most))
	require.JSONEq(t, `{"order":"too large"}`, string(w.letters()[0].GetValue()))
}
