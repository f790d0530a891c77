package kafka_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"sluice/libs/kafka"
	playground "sluice/libs/playground/kafka"
	"sluice/libs/playground/kafka/kafkatest"
)

// sarama counts fetches in the default registry of go-metrics too, whose one goroutine lives as long as the process.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func TestTopicAndOffsets(t *testing.T) {
	b := kafkatest.OpenFake(t, playground.Config{Topics: map[string]int32{"t": 3}})
	c, w := open(t, source(b.Addr(), "t")), client(t, b.Addr())

	topic, err := c.Topic(t.Context(), "t")
	require.NoError(t, err)
	require.Equal(t, []int32{0, 1, 2}, topic.Partitions)
	require.NotZero(t, topic.ID)
	_, err = c.Topic(t.Context(), "other")
	require.ErrorIs(t, err, kafka.ErrNoTopic)
	require.False(t, kafka.Permanent(err), "a topic may still come")
	require.ErrorContains(t, err, "create it, or correct source.kafka.topic")

	produce(t, w, "t", 0, "a", "b", "c")
	produce(t, w, "t", 2, "d")
	require.NoError(t, b.Cluster().DeleteRecords("t", 0, 1))
	earliest, err := c.EarliestOffsets(t.Context(), "t")
	require.NoError(t, err)
	require.Equal(t, map[int32]int64{0: 1, 1: 0, 2: 0}, earliest)
	ends, err := c.EndOffsets(t.Context(), "t", committed)
	require.NoError(t, err)
	require.Equal(t, map[int32]int64{0: 3, 1: 0, 2: 1}, ends)

	require.NoError(t, b.Cluster().DeleteTopic("t"))
	_, err = c.EndOffsets(t.Context(), "t", committed)
	require.ErrorIs(t, err, kafka.ErrNoTopic)
	require.NoError(t, b.Cluster().CreateTopic("t", 3, nil))
	again, err := c.Topic(t.Context(), "t")
	require.NoError(t, err)
	require.NotEqual(t, topic.ID, again.ID)
}

func TestOffsetsAtTime(t *testing.T) {
	b := kafkatest.OpenFake(t, playground.Config{Topics: map[string]int32{"t": 2}})
	c, w := open(t, source(b.Addr(), "t")), client(t, b.Addr())
	noon := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for i := range 3 {
		r := &kgo.Record{Topic: "t", Value: []byte("v"), Timestamp: noon.Add(time.Duration(i) * time.Hour)}
		require.NoError(t, w.ProduceSync(t.Context(), r).FirstErr())
	}
	for _, test := range []struct {
		at   time.Time
		want int64
	}{
		{noon.Add(-time.Hour), 0}, {noon, 0}, {noon.Add(time.Millisecond), 1}, {noon.Add(2 * time.Hour), 2},
		{noon.Add(3 * time.Hour), 3}, {time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC), 0},
	} {
		got, err := c.OffsetsAt(t.Context(), "t", test.at)
		require.NoError(t, err)
		require.Equal(t, map[int32]int64{0: test.want, 1: 0}, got, "%v", test.at)
	}
}

func TestRecordAndSample(t *testing.T) {
	b := kafkatest.OpenFake(t, playground.Config{Topics: map[string]int32{"t": 2}})
	c, w := open(t, source(b.Addr(), "t")), client(t, b.Addr())

	none, err := c.Sample(t.Context(), "t", 3, 0)
	require.NoError(t, err)
	require.Empty(t, none)
	require.NoError(t, w.ProduceSync(t.Context(), &kgo.Record{
		Topic: "t", Partition: 1, Key: []byte("k"), Value: []byte("first"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("x")}},
	}).FirstErr())
	one, err := c.Record(t.Context(), "t", 1, 0)
	require.NoError(t, err)
	require.Equal(t, "k first", string(one.Key)+" "+string(one.Value))
	require.Equal(t, "h", string(one.Headers[0].Key))

	produce(t, w, "t", 0, "a", "b", "c", "d")
	sample, err := c.Sample(t.Context(), "t", 3, time.Second)
	require.NoError(t, err)
	require.Equal(t, []string{"b", "c", "d"}, values(sample))

	require.NoError(t, b.Cluster().DeleteRecords("t", 0, 2))
	for _, offset := range []int64{0, 1, 4, 99} {
		_, err = c.Record(t.Context(), "t", 0, offset)
		require.ErrorIs(t, err, kafka.ErrGone, "offset %d", offset)
	}
}

func TestSampleWaitsForTheFirstRecord(t *testing.T) {
	b := kafkatest.OpenFake(t, playground.Config{Topics: map[string]int32{"t": 1}})
	c, w := open(t, source(b.Addr(), "t")), client(t, b.Addr())
	// The first look of Sample finds nothing: the record is written when it asks where the topic ends.
	written := make(chan error, 1)
	b.Cluster().ControlKey(2, onceThen(func() {
		go func() {
			written <- w.ProduceSync(context.WithoutCancel(t.Context()), &kgo.Record{Topic: "t", Value: []byte("late")}).FirstErr()
		}()
	}))
	sample, err := c.Sample(t.Context(), "t", 5, time.Minute)
	require.NoError(t, err)
	require.NoError(t, <-written)
	require.Equal(t, []string{"late"}, values(sample))
}

func TestNextRecordPassesWhatNoConsumerSees(t *testing.T) {
	b := kafkatest.OpenFake(t, playground.Config{Topics: map[string]int32{"t": 1}})
	gapProbe(t, b.Addr(), "t")

	c := open(t, source(b.Addr(), "t"))
	_, _, err := c.NextRecord(t.Context(), "t", 0, 1000, committed)
	require.ErrorIs(t, err, kafka.ErrBeyondEnd)
	require.NoError(t, b.Cluster().DeleteRecords("t", 0, 5))
	next, atEnd, err := c.NextRecord(t.Context(), "t", 0, 0, committed)
	require.NoError(t, err)
	require.False(t, atEnd)
	require.EqualValues(t, 6, next, "answered from the earliest offset that is left")
}

// gapProbe fills a topic of one partition:
//
//	0 plain, 1-2 committed, 3 marker, 4 aborted, 5 marker, 6 committed, 7 marker, 8-9 aborted, 10 marker, 11 open.
func gapProbe(t *testing.T, addr, topic string) {
	t.Helper()
	produce(t, client(t, addr), topic, 0, "plain")
	tx := client(t, addr, kgo.TransactionalID("tx-"+topic))
	transact(t, tx, topic, kgo.TryCommit, "one", "two")
	transact(t, tx, topic, kgo.TryAbort, "no")
	transact(t, tx, topic, kgo.TryCommit, "three")
	transact(t, tx, topic, kgo.TryAbort, "never", "nor this")

	c := open(t, source(addr, topic))
	ends, err := c.EndOffsets(t.Context(), topic, committed)
	require.NoError(t, err)
	require.EqualValues(t, 11, ends[0])
	check := func(offset, want int64, end bool) {
		t.Helper()
		next, atEnd, err := c.NextRecord(within(t, time.Minute), topic, 0, offset, committed)
		require.NoError(t, err)
		require.Equal(t, want, next, "from %d", offset)
		require.Equal(t, end, atEnd, "from %d", offset)
	}
	for offset, want := range []int64{0, 1, 2, 6, 6, 6, 6} {
		check(int64(offset), want, false)
	}
	for offset := int64(7); offset <= 11; offset++ {
		check(offset, 11, true)
	}
	next, atEnd, err := c.NextRecord(t.Context(), topic, 0, 8, uncommitted)
	require.NoError(t, err)
	require.False(t, atEnd)
	require.EqualValues(t, 8, next, "an uncommitted reader sees aborted records")
	next, atEnd, err = c.NextRecord(t.Context(), topic, 0, 10, uncommitted)
	require.NoError(t, err)
	require.True(t, atEnd)
	require.EqualValues(t, 11, next)

	// An open transaction holds the stable end back and becomes readable when it commits.
	require.NoError(t, tx.BeginTransaction())
	produce(t, tx, topic, 0, "pending")
	ends, err = c.EndOffsets(t.Context(), topic, committed)
	require.NoError(t, err)
	require.EqualValues(t, 11, ends[0])
	ends, err = c.EndOffsets(t.Context(), topic, uncommitted)
	require.NoError(t, err)
	require.EqualValues(t, 12, ends[0])
	check(7, 11, true)
	require.NoError(t, tx.EndTransaction(within(t, time.Minute), kgo.TryCommit))
	check(7, 11, false)
	check(12, 13, true)

	sample, err := c.Sample(t.Context(), topic, 3, time.Second)
	require.NoError(t, err)
	require.Equal(t, []string{"two", "three", "pending"}, values(sample), "gaps do not count")
}

func TestGroups(t *testing.T) {
	b := kafkatest.OpenFake(t, playground.Config{Topics: map[string]int32{"t": 2}})
	groups(t, b.Addr(), "t")
}

func groups(t *testing.T, addr, topic string) {
	t.Helper()
	w := client(t, addr)
	for range 8 {
		produce(t, w, topic, 0, "v")
	}
	c := open(t, source(addr, topic))
	require.NoError(t, c.DeleteGroup(within(t, time.Minute), "none"))
	offsets, err := c.CommittedOffsets(t.Context(), "g", topic)
	require.NoError(t, err)
	require.Empty(t, offsets)

	config, err := kafka.Config(source(addr, topic), "sluice-test")
	require.NoError(t, err)
	group, err := sarama.NewConsumerGroup([]string{addr}, "g", config)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	joined, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- group.Consume(ctx, []string{topic}, starter{topic: topic, at: 7, joined: joined}) }()
	<-joined

	// Members are there: deletion waits, and gives up with its context.
	require.ErrorIs(t, c.DeleteGroup(within(t, 700*time.Millisecond), "g"), context.DeadlineExceeded)
	deleted := make(chan error, 1)
	cancel()
	require.NoError(t, <-ended)
	offsets, err = c.CommittedOffsets(t.Context(), "g", topic)
	require.NoError(t, err)
	require.Equal(t, map[int32]kafka.Committed{0: {Offset: 7, Note: kafka.Note("p", [16]byte{1}, 9)}}, offsets)
	id, highest, ours := offsets[0].Of("p")
	require.True(t, ours)
	require.EqualValues(t, 9, highest)
	require.Equal(t, append([]byte{1}, make([]byte, 15)...), id)
	_, highest, ours = offsets[0].Of("other")
	require.False(t, ours)
	require.EqualValues(t, 7, highest)
	_, highest, ours = kafka.Committed{Offset: 7}.Of("p")
	require.False(t, ours)
	require.EqualValues(t, 7, highest)
	go func() { deleted <- c.DeleteGroup(within(t, time.Minute), "g") }()
	require.NoError(t, group.Close())
	require.NoError(t, <-deleted)
	offsets, err = c.CommittedOffsets(t.Context(), "g", topic)
	require.NoError(t, err)
	require.Empty(t, offsets)
}

// starter marks an offset of partition 0 at the start of a session.
type starter struct {
	topic  string
	at     int64
	joined chan struct{}
}

func (s starter) Setup(session sarama.ConsumerGroupSession) error {
	session.MarkOffset(s.topic, 0, s.at, kafka.Note("p", [16]byte{1}, 9))
	session.Commit()
	close(s.joined)
	return nil
}
func (starter) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (starter) ConsumeClaim(s sarama.ConsumerGroupSession, _ sarama.ConsumerGroupClaim) error {
	<-s.Context().Done()
	return nil
}

func TestUnreachableBrokerIsWaitable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	_, err = kafka.Open(t.Context(), source(addr, "t"), "sluice-test")
	require.ErrorContains(t, err, "source.kafka.brokers ["+addr+"]: connect: ")
	require.ErrorContains(t, err, "is Kafka running there")
	require.False(t, kafka.Permanent(err))
}

func TestCallsEndWithTheirContextAndWithClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	defer l.Close()
	start := time.Now()
	_, err = kafka.Open(within(t, 300*time.Millisecond), source(l.Addr().String(), "t"), "sluice-test")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), time.Minute)

	c := open(t, source(kafkatest.StartFake(t), "t"))
	c.Close()
	c.Close()
	_, err = c.Topic(t.Context(), "t")
	require.ErrorIs(t, err, kafka.ErrClosed)
}

func values(ms []*sarama.ConsumerMessage) []string {
	var vs []string
	for _, m := range ms {
		vs = append(vs, string(m.Value))
	}
	return vs
}

// A note says what it was given, as far as there is room, and nothing to another pipeline; one of an earlier version says less.
func TestNote(t *testing.T) {
	id := [16]byte{1, 2}
	words := []kafka.Word{{Lane: 3, Epoch: 1, Sequence: 1<<63 + 1, TimeNs: 1<<62 + 1}, {Lane: 0, Sequence: 7, TimeNs: 8}}
	c := kafka.Committed{Offset: 5, Note: kafka.Note("p", id, 9, words...)}
	topicID, highest, ok := c.Of("p")
	require.True(t, ok)
	require.Equal(t, id[:], topicID)
	require.EqualValues(t, 9, highest)
	require.Equal(t, words, c.Words("p"))
	for _, c := range []kafka.Committed{{Offset: 5}, {Offset: 5, Note: kafka.Note("q", id, 9, words...)}, {Offset: 5, Note: "sluice/p/1"}} {
		_, highest, ok = c.Of("p")
		require.False(t, ok)
		require.EqualValues(t, 5, highest)
		require.Empty(t, c.Words("p"))
	}
	plain := kafka.Committed{Note: kafka.Note("p", id, 9)}
	_, _, ok = plain.Of("p")
	require.True(t, ok)
	require.Empty(t, plain.Words("p"))
	var many []kafka.Word
	for lane := range 200 {
		many = append(many, kafka.Word{Lane: 200 - lane, Epoch: 3, Sequence: 1 << 40, TimeNs: 1 << 60})
	}
	c.Note = kafka.Note("p", id, 9, many...)
	require.Less(t, len(c.Note), 4096)
	got := c.Words("p")
	require.Greater(t, len(got), 30)
	require.Equal(t, many[:len(got)], got)
}
