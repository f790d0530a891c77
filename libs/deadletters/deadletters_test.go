package deadletters_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	kafkadev "sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/nats/natstest"
)

// What a NATS server has by default.
const maxPayload = 1 << 20

func TestMain(m *testing.M) {
	// sarama measures its requests, by a goroutine that the process has once.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// world is two topics, one for each source, and a dead-letter log.
type world struct {
	t      *testing.T
	js     jetstream.JetStream
	broker *kafkadev.Broker
	client *kgo.Client
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, broker: kafkatest.OpenFake(t, kafkadev.Config{Topics: map[string]int32{"orders": 1, "users": 1}})}
	_, w.js = natstest.Connect(t, natstest.Start(t))
	require.NoError(t, fencedlog.Ensure(t.Context(), w.js, fencedlog.Log{Pipeline: "p", Stage: fencedlog.DeadLetters}, fencedlog.Limits{}))
	var err error
	w.client, err = kgo.NewClient(kgo.SeedBrokers(w.broker.Addr()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	t.Cleanup(w.client.Close)
	return w
}

func (w *world) produce(topic string, values ...string) {
	w.t.Helper()
	for i, v := range values {
		record := &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{0xff}}}}
		require.NoError(w.t, w.client.ProduceSync(w.t.Context(), record).FirstErr())
	}
}

func (w *world) open(js jetstream.JetStream, change func(*deadletters.Options)) (*deadletters.Writer, string) {
	w.t.Helper()
	source := func(topic string) *controlv1.KafkaSource {
		return &controlv1.KafkaSource{Brokers: []string{w.broker.Addr()}, Topic: topic}
	}
	options := deadletters.Options{
		Stage: "join", Lane: 3, MaxPayload: maxPayload, ClientID: "test",
		Sources: map[string]*controlv1.KafkaSource{"orders": source("orders"), "users": source("users")},
	}
	if change != nil {
		change(&options)
	}
	writer, last, err := deadletters.Open(w.t.Context(), js, "p", "join-3", options)
	require.NoError(w.t, err)
	w.t.Cleanup(writer.Close)
	return writer, last
}

func (w *world) letters() (out []*eventv1.DeadLetter) {
	w.t.Helper()
	log := fencedlog.Log{Pipeline: "p", Stage: fencedlog.DeadLetters}
	stream, err := w.js.Stream(w.t.Context(), log.Stream())
	require.NoError(w.t, err)
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(w.t.Context(), seq)
		require.NoError(w.t, err)
		if msg.Subject != log.Subject(3, "join-3") {
			continue // a fence
		}
		var b eventv1.DeadLetterBatch
		require.NoError(w.t, proto.Unmarshal(msg.Data, &b))
		out = append(out, b.GetLetters()...)
	}
	return out
}

func refusals(n int) []deadletters.Refusal {
	out := make([]deadletters.Refusal, n)
	for i := range out {
		out[i] = deadletters.Refusal{Source: "orders", Topic: "orders", Offset: int64(i), Reason: "late", SchemaRevision: 2}
	}
	return out
}

func TestLettersCarryTheRecord(t *testing.T) {
	w := newWorld(t)
	w.produce("orders", `{"id": 1}`)
	w.produce("users", `{"name": "x"}`)
	writer, last := w.open(w.js, nil)
	require.Empty(t, last)
	other := [16]byte{1}
	require.NoError(t, writer.Append(t.Context(), "17", []deadletters.Refusal{
		{Source: "orders", Topic: "orders", Field: "id", Reason: "bad \xff byte", SchemaRevision: 4},
		{Source: "users", Topic: "users", Reason: "late"},
		{Source: "users", Topic: "users", Offset: 7, Reason: "late", Row: func() ([]byte, error) { return []byte("row"), nil }},
		{Source: "users", Topic: "users", TopicID: other, Reason: "late", Row: func() ([]byte, error) { return nil, errors.New("no") }},
		{Source: "gone", Topic: "users", Reason: "late"},
	}))
	got := w.letters()
	require.Len(t, got, 5)
	for _, l := range got {
		require.Equal(t, "join", l.GetStage())
		require.NotZero(t, l.GetRefusedMs())
	}
	require.Equal(t, `{"id": 1}`, string(got[0].GetValue()))
	require.Equal(t, "k0", string(got[0].GetKey()))
	require.Equal(t, "bad \uFFFD byte", got[0].GetReason())
	require.Equal(t, "id", got[0].GetField())
	require.EqualValues(t, 4, got[0].GetSchemaRevision())
	require.Equal(t, []byte{0xff}, got[0].GetHeaders()[0].GetValue())
	require.NotZero(t, got[0].GetTimestampMs())
	require.JSONEq(t, `{"name": "x"}`, string(got[1].GetValue()))
	require.Equal(t, "row", string(got[2].GetValue()))
	require.Contains(t, got[2].GetReason(), "no longer in Kafka: the value is the row")
	require.Contains(t, got[3].GetReason(), "no longer in Kafka, and the row made of it cannot be shown (no)")
	require.Contains(t, got[4].GetReason(), "no longer in Kafka")
	writer.Close()
	require.NoError(t, writer.Append(t.Context(), "18", refusals(1)), "it can be used again")

	_, last = w.open(w.js, nil)
	require.Equal(t, "18", last)
	require.ErrorIs(t, writer.Append(t.Context(), "19", refusals(1)), fencedlog.ErrFenced)
}

func TestLettersFitTheirMessages(t *testing.T) {
	w := newWorld(t)
	big := strings.Repeat("v", 100<<10)
	w.produce("orders", big, big, big)
	writer, _ := w.open(w.js, func(o *deadletters.Options) { o.MaxPayload = 64 << 10 })
	require.NoError(t, writer.Append(t.Context(), "1", refusals(3)))
	require.Equal(t, 3, writer.In("1"))
	got := w.letters()
	require.Len(t, got, 3)
	for i, l := range got {
		require.EqualValues(t, i, l.GetOffset())
		require.True(t, l.GetValueTruncated())
		require.EqualValues(t, len(big), l.GetValueSize())
		require.Greater(t, len(l.GetValue()), 30<<10)
	}
}

// crashing lets so many appends through, and what comes after that gets lost: unheard, or done without an answer.
type crashing struct {
	jetstream.JetStream
	left int
	done bool
}

var errCrash = errors.New("crash")

func (c *crashing) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	if c.left--; c.left < 0 {
		if c.left == -1 && c.done {
			_, _ = c.JetStream.PublishMsg(ctx, msg, opts...)
		}
		return nil, fmt.Errorf("%w: %w", errCrash, nats.ErrConnectionClosed)
	}
	return c.JetStream.PublishMsg(ctx, msg, opts...)
}

// An Append of several messages is cut off after each of them; the next writer repeats it.
func TestACrashAtEachMessage(t *testing.T) {
	for _, done := range []bool{false, true} {
		t.Run(fmt.Sprint(done), func(t *testing.T) {
			w := newWorld(t)
			big := strings.Repeat("v", 20<<10)
			w.produce("orders", big, big, big, big, big)
			small := func(o *deadletters.Options) { o.MaxPayload = 64 << 10 } // two letters a message
			want := 0
			for crashes := 0; ; crashes++ {
				position := fmt.Sprintf("%d/1", crashes)
				writer, _ := w.open(&crashing{w.js, 1 + crashes, done}, small) // one is the fence
				err := writer.Append(t.Context(), position, refusals(5))
				writer.Close()
				if err != nil {
					require.ErrorIs(t, err, errCrash)
				}
				heir, last := w.open(w.js, small)
				if n := heir.In(position); n > 0 {
					require.Equal(t, position, last)
				}
				require.NoError(t, heir.Append(t.Context(), position, refusals(5)))
				require.NoError(t, heir.Append(t.Context(), position, refusals(5)), "all of it is there")
				require.Equal(t, 5, heir.In(position))
				want += 5
				got := w.letters()
				require.Len(t, got, want)
				for i, l := range got {
					require.EqualValues(t, i%5, l.GetOffset())
				}
				if err == nil {
					require.Equal(t, 3, crashes, "messages")
					return
				}
			}
		})
	}
}

// While Kafka is away the letter waits, and says so; the record is in it afterwards.
func TestWaitsForKafka(t *testing.T) {
	w := newWorld(t)
	w.produce("orders", "value")
	proxy := natstest.NewProxy(t, w.broker.Addr())
	proxy.Cut()
	heard := make(chan error, 100)
	var once sync.Once
	writer, _ := w.open(w.js, func(o *deadletters.Options) {
		o.Sources["orders"].Brokers = []string{proxy.Addr()}
		o.Wait = func(err error) {
			once.Do(proxy.Mend)
			heard <- err
		}
	})
	require.NoError(t, writer.Append(t.Context(), "1", refusals(1)))
	require.ErrorContains(t, <-heard, "fetch a refused event")
	var last error
	for len(heard) > 0 {
		last = <-heard
	}
	require.NoError(t, last)
	require.Equal(t, "value", string(w.letters()[0].GetValue()))

	writer.Close() // it has learnt of addresses that are not the proxy's
	proxy.Cut()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, writer.Append(ctx, "2", refusals(1)), context.DeadlineExceeded)
	require.Zero(t, writer.In("2"))
}

func TestTopicMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.produce("orders", "old")
	admin := kadm.NewClient(w.client)
	topics, err := admin.ListTopics(t.Context(), "orders")
	require.NoError(t, err)
	id := topics["orders"].ID
	_, err = admin.DeleteTopics(t.Context(), "orders")
	require.NoError(t, err)
	_, err = admin.CreateTopic(t.Context(), 1, 1, nil, "orders")
	require.NoError(t, err)
	client, err := kgo.NewClient(kgo.SeedBrokers(w.broker.Addr()))
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("new")}).FirstErr())
	writer, _ := w.open(w.js, nil)
	r := refusals(1)
	r[0].TopicID = id
	require.NoError(t, writer.Append(t.Context(), "1", r))
	require.Empty(t, w.letters()[0].GetValue(), "not the other topic's record")
	require.Contains(t, w.letters()[0].GetReason(), "no longer in Kafka")
}
