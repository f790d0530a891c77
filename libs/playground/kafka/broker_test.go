package kafka_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/libs/playground/kafka"
)

// sarama counts fetches in the default registry of go-metrics too, whose one goroutine lives as long as the process.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

func open(t *testing.T, c kafka.Config) *kafka.Broker {
	t.Helper()
	b, err := kafka.Open(c)
	require.NoError(t, err)
	t.Cleanup(b.Close)
	return b
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.ClientID = "test"
	c.Version = sarama.V3_6_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	return c
}

// TestSaramaProducersAndGroup is what users' programs do with `sluice dev`: produce with every codec, consume in a group.
func TestSaramaProducersAndGroup(t *testing.T) {
	b := open(t, kafka.Config{Listen: "127.0.0.1:0", Topics: map[string]int32{"t": 2}})
	codecs := []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy,
		sarama.CompressionLZ4, sarama.CompressionZSTD}
	want := map[string]bool{}
	for _, codec := range codecs {
		c := config()
		c.Producer.Compression = codec
		p, err := sarama.NewSyncProducer([]string{b.Addr()}, c)
		require.NoError(t, err)
		_, _, err = p.SendMessage(&sarama.ProducerMessage{Topic: "t", Value: sarama.StringEncoder(codec.String())})
		require.NoError(t, err, codec)
		require.NoError(t, p.Close())
		want[codec.String()] = true
	}
	group, err := sarama.NewConsumerGroup([]string{b.Addr()}, "g", config())
	require.NoError(t, err)
	defer func() { require.NoError(t, group.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got := make(chan string, len(codecs))
	consumed := make(chan error, 1)
	go func() { consumed <- group.Consume(ctx, []string{"t"}, collector(got)) }()
	for range codecs {
		select {
		case v := <-got:
			require.True(t, want[v], v)
			delete(want, v)
		case <-ctx.Done():
			t.Fatal("not every record came: ", want)
		}
	}
	cancel()
	require.NoError(t, <-consumed)
}

type collector chan string

func (collector) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (collector) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (c collector) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		c <- string(m.Value)
		s.MarkMessage(m, "")
	}
	return nil
}

func TestAddressIsTheOneGiven(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	for listen, want := range map[string]string{
		addr: addr, "localhost:" + port: "localhost:" + port, "0.0.0.0:" + port: "localhost:" + port, ":" + port: "localhost:" + port,
	} {
		b := open(t, kafka.Config{Listen: listen, Topics: map[string]int32{"t": 1}})
		require.Equal(t, want, b.Addr())
		client, err := sarama.NewClient([]string{addr}, config())
		require.NoError(t, err)
		require.Equal(t, want, client.Brokers()[0].Addr(), "as advertised")
		require.NoError(t, client.Close())
		b.Close()
	}
	_, err = kafka.Open(kafka.Config{Listen: "nowhere"})
	require.ErrorContains(t, err, `listen address "nowhere"`)
}

func TestTopicsAreCreatedByThemselvesOnlyWhenAllowed(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		b := open(t, kafka.Config{Listen: "127.0.0.1:0", AutoCreateTopics: allowed, Partitions: 3})
		client, err := sarama.NewClient([]string{b.Addr()}, config())
		require.NoError(t, err)
		partitions, err := client.Partitions("new")
		if allowed {
			require.NoError(t, err)
			require.Len(t, partitions, 3)
		} else {
			require.ErrorIs(t, err, sarama.ErrUnknownTopicOrPartition)
		}
		require.NoError(t, client.Close())
	}
}

func TestDirKeepsRecords(t *testing.T) {
	dir := t.TempDir()
	for start := range 2 {
		b := open(t, kafka.Config{Listen: "127.0.0.1:0", Dir: dir, Topics: map[string]int32{"t": 1}})
		p, err := sarama.NewSyncProducer([]string{b.Addr()}, config())
		require.NoError(t, err)
		_, offset, err := p.SendMessage(&sarama.ProducerMessage{Topic: "t", Value: sarama.StringEncoder("v")})
		require.NoError(t, err)
		require.EqualValues(t, start, offset)
		require.NoError(t, p.Close())
		b.Close()
	}
}
