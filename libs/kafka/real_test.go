//go:build unix

package kafka_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/playground/kafka/realkafka"
)

func fromEnv(name string) *controlv1.Secret {
	return &controlv1.Secret{From: &controlv1.Secret_Env{Env: name}}
}

// TestRealKafka shares one broker: most of a test's time would be its start.
func TestRealKafka(t *testing.T) {
	r := kafkatest.StartReal(t, realkafka.Config{TLS: true, Users: []realkafka.User{{Name: "ann", Password: "s3cret-x"}}})
	admin := client(t, r.Addr())
	createTopic(t, admin, "t", 2, nil)
	t.Setenv("ANN", "s3cret-x")
	t.Setenv("WRONG", "wrong")

	t.Run("security", func(t *testing.T) { security(t, r) })
	t.Run("refusals", func(t *testing.T) { refusals(t, r) })
	t.Run("codecs", func(t *testing.T) { codecs(t, r.Addr()) })
	t.Run("large event", func(t *testing.T) { largeEvent(t, r.Addr()) })
	t.Run("gap probe", func(t *testing.T) {
		createTopic(t, admin, "gaps", 1, nil)
		gapProbe(t, r.Addr(), "gaps")
	})
	t.Run("groups", func(t *testing.T) {
		createTopic(t, admin, "groups", 2, nil)
		groups(t, r.Addr(), "groups")
	})
	t.Run("topic made anew", func(t *testing.T) { recreated(t, r.Addr()) })
	t.Run("topic grows", func(t *testing.T) { growing(t, r.Addr()) })
	t.Run("broker restarts", func(t *testing.T) { restart(t, r) })
}

func security(t *testing.T, r *realkafka.Real) {
	certs := r.Certificates()
	server := func() *controlv1.TLS { return &controlv1.TLS{CaFile: certs.CA} }
	password := func(m controlv1.SASL_Mechanism) *controlv1.SASL {
		return &controlv1.SASL{Mechanism: m, Username: "ann", Password: fromEnv("ANN")}
	}
	token := unsecuredToken("ann")
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(token+"\n"), 0o600))
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if id, pass, _ := req.BasicAuth(); id != "sluice" || pass != "s3cret-x" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"bearer","expires_in":3600}`, token)
	}))
	defer issuer.Close()

	for name, s := range map[string]*controlv1.KafkaSource{
		"TLS":                 {Brokers: []string{r.TLSAddr()}, Tls: server()},
		"TLS, unchecked":      {Brokers: []string{r.TLSAddr()}, Tls: &controlv1.TLS{InsecureSkipVerify: true}},
		"TLS, named":          {Brokers: []string{r.TLSAddr()}, Tls: &controlv1.TLS{CaFile: certs.CA, ServerName: "localhost"}},
		"client certificate":  {Brokers: []string{r.MutualTLSAddr()}, Tls: &controlv1.TLS{CaFile: certs.CA, CertFile: certs.Client, KeyFile: certs.ClientKey}},
		"PLAIN":               {Brokers: []string{r.SASLAddr()}, Sasl: password(controlv1.SASL_PLAIN)},
		"SCRAM-SHA-256":       {Brokers: []string{r.SASLAddr()}, Sasl: password(controlv1.SASL_SCRAM_SHA_256)},
		"SCRAM-SHA-512 + TLS": {Brokers: []string{r.SASLTLSAddr()}, Tls: server(), Sasl: password(controlv1.SASL_SCRAM_SHA_512)},
		"token from a file": {Brokers: []string{r.SASLTLSAddr()}, Tls: server(), Sasl: &controlv1.SASL{
			Mechanism: controlv1.SASL_OAUTHBEARER, Token: &controlv1.Secret{From: &controlv1.Secret_File{File: file}}}},
		"client credentials": {Brokers: []string{r.SASLAddr()}, Sasl: &controlv1.SASL{
			Mechanism: controlv1.SASL_OAUTHBEARER, Oauth: &controlv1.OAuth{
				TokenUrl: issuer.URL, ClientId: "sluice", ClientSecret: fromEnv("ANN"), Scopes: []string{"kafka"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			s.Topic = "t"
			topic, err := open(t, s).Topic(within(t, time.Minute), "t")
			require.NoError(t, err)
			require.Equal(t, []int32{0, 1}, topic.Partitions)
		})
	}
}

// unsecuredToken is a JWT that nobody signed.
func unsecuredToken(subject string) string {
	part := base64.RawURLEncoding.EncodeToString
	now := time.Now().Unix()
	return part([]byte(`{"alg":"none"}`)) + "." +
		part(fmt.Appendf(nil, `{"sub":%q,"iat":%d,"exp":%d}`, subject, now, now+3600)) + "."
}

func refusals(t *testing.T, r *realkafka.Real) {
	certs := r.Certificates()
	for name, test := range map[string]struct {
		source    *controlv1.KafkaSource
		permanent bool
		says      string
	}{
		"wrong password": {&controlv1.KafkaSource{Brokers: []string{r.SASLAddr()}, Sasl: &controlv1.SASL{
			Mechanism: controlv1.SASL_SCRAM_SHA_512, Username: "ann", Password: fromEnv("WRONG")}},
			true, "the brokers refused the credentials in source.kafka.sasl"},
		"wrong password, PLAIN": {&controlv1.KafkaSource{Brokers: []string{r.SASLAddr()}, Sasl: &controlv1.SASL{
			Mechanism: controlv1.SASL_PLAIN, Username: "ann", Password: fromEnv("WRONG")}},
			true, "the brokers refused the credentials in source.kafka.sasl"},
		"no client certificate": {&controlv1.KafkaSource{Brokers: []string{r.MutualTLSAddr()}, Tls: &controlv1.TLS{CaFile: certs.CA}},
			true, "may want a client certificate"},
		"other authority": {&controlv1.KafkaSource{Brokers: []string{r.TLSAddr()}, Tls: &controlv1.TLS{CaFile: certs.OtherCA}},
			true, "set source.kafka.tls.ca_file"},
		"other name": {&controlv1.KafkaSource{Brokers: []string{r.TLSAddr()}, Tls: &controlv1.TLS{CaFile: certs.CA, ServerName: "example.org"}},
			true, "set source.kafka.tls.server_name"},
		"no TLS to a TLS listener":   {&controlv1.KafkaSource{Brokers: []string{r.TLSAddr()}}, false, "source.kafka.tls"},
		"TLS to a plain listener":    {&controlv1.KafkaSource{Brokers: []string{r.Addr()}, Tls: &controlv1.TLS{CaFile: certs.CA}}, false, "does this listener speak TLS"},
		"no SASL to a SASL listener": {&controlv1.KafkaSource{Brokers: []string{r.SASLAddr()}}, false, "may want source.kafka.tls or source.kafka.sasl"},
		"SASL to a plain listener": {&controlv1.KafkaSource{Brokers: []string{r.Addr()}, Sasl: &controlv1.SASL{
			Mechanism: controlv1.SASL_PLAIN, Username: "ann", Password: fromEnv("ANN")}},
			true, "does not offer the mechanism"},
	} {
		t.Run(name, func(t *testing.T) {
			test.source.Topic = "t"
			_, err := kafka.Open(within(t, time.Minute), test.source, "sluice-test")
			require.ErrorContains(t, err, test.says)
			require.ErrorContains(t, err, "source.kafka.brokers ["+test.source.Brokers[0]+"]: connect: ")
			require.NotContains(t, err.Error(), "s3cret")
			require.NotContains(t, err.Error(), "wrong")
			require.Equal(t, test.permanent, kafka.Permanent(err), "%v", err)
		})
	}
}

func codecs(t *testing.T, addr string) {
	createTopic(t, client(t, addr), "codecs", 1, nil)
	var want []string
	for _, codec := range []kgo.CompressionCodec{
		kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
	} {
		w := client(t, addr, kgo.ProducerBatchCompression(codec))
		v := strings.Repeat(fmt.Sprint(codec), 1000)
		produce(t, w, "codecs", 0, v)
		want = append(want, v)
	}
	require.Equal(t, want, consume(t, addr, "codecs", len(want)))
	sample, err := open(t, source(addr, "codecs")).Sample(t.Context(), "codecs", 10, time.Second)
	require.NoError(t, err)
	require.Equal(t, want, values(sample))
}

func largeEvent(t *testing.T, addr string) {
	size := "10485760"
	createTopic(t, client(t, addr), "large", 1, map[string]*string{"max.message.bytes": &size})
	big := strings.Repeat("0123456789", 5<<20/10)
	produce(t, client(t, addr, kgo.ProducerBatchCompression(kgo.NoCompression())), "large", 0, "small", big, "after")
	got := consume(t, addr, "large", 3)
	require.True(t, got[0] == "small" && got[1] == big && got[2] == "after")
	m, err := open(t, source(addr, "large")).Record(within(t, time.Minute), "large", 0, 1)
	require.NoError(t, err)
	require.True(t, string(m.Value) == big)
}

// consume reads n records of partition 0 from the earliest on, through a consumer group with our configuration.
func consume(t *testing.T, addr, topic string, n int) []string {
	t.Helper()
	config, err := kafka.Config(source(addr, topic), "sluice-test")
	require.NoError(t, err)
	group, err := sarama.NewConsumerGroup([]string{addr}, "reader-"+topic, config)
	require.NoError(t, err)
	defer func() { require.NoError(t, group.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := &reader{n: n, stop: cancel}
	require.NoError(t, group.Consume(ctx, []string{topic}, h))
	require.Len(t, h.got, n)
	return h.got
}

type reader struct {
	n    int
	stop context.CancelFunc
	got  []string
}

func (*reader) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*reader) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (r *reader) ConsumeClaim(_ sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		if r.got = append(r.got, string(m.Value)); len(r.got) == r.n {
			r.stop()
			return nil
		}
	}
	return nil
}

func recreated(t *testing.T, addr string) {
	w := client(t, addr)
	createTopic(t, w, "anew", 1, nil)
	produce(t, w, "anew", 0, "a", "b")
	c := open(t, source(addr, "anew"))
	before, err := c.Topic(t.Context(), "anew")
	require.NoError(t, err)
	_, err = kadm.NewClient(w).DeleteTopics(t.Context(), "anew")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := c.Topic(t.Context(), "anew")
		return err != nil && !kafka.Permanent(err)
	}, time.Minute, 50*time.Millisecond)
	createTopic(t, w, "anew", 1, nil)
	var after kafka.Topic
	require.Eventually(t, func() bool {
		after, err = c.Topic(t.Context(), "anew")
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	require.NotEqual(t, before.ID, after.ID)
	_, _, err = c.NextRecord(within(t, time.Minute), "anew", 0, 2, committed)
	require.ErrorIs(t, err, kafka.ErrBeyondEnd, "the old position means nothing in the new topic")
}

func growing(t *testing.T, addr string) {
	w := client(t, addr)
	createTopic(t, w, "grows", 1, nil)
	c := open(t, source(addr, "grows"))
	before, err := c.Topic(t.Context(), "grows")
	require.NoError(t, err)
	_, err = kadm.NewClient(w).CreatePartitions(t.Context(), 2, "grows")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		after, err := c.Topic(t.Context(), "grows")
		return err == nil && after.ID == before.ID && len(after.Partitions) == 3
	}, time.Minute, 50*time.Millisecond)
	ends, err := c.EndOffsets(within(t, time.Minute), "grows", committed)
	require.NoError(t, err)
	require.Equal(t, map[int32]int64{0: 0, 1: 0, 2: 0}, ends)
}

// restart checks that a Cluster outlives its broker.
func restart(t *testing.T, r *realkafka.Real) {
	createTopic(t, client(t, r.Addr()), "survivor", 1, nil)
	c := open(t, source(r.Addr(), "survivor"))
	before, err := c.Topic(t.Context(), "survivor")
	require.NoError(t, err)
	require.NoError(t, r.Kill())
	_, err = c.EndOffsets(within(t, time.Minute), "survivor", committed)
	require.Error(t, err)
	require.False(t, kafka.Permanent(err), "%v", err)
	require.NoError(t, r.Start(within(t, 5*time.Minute)))
	require.Eventually(t, func() bool {
		after, err := c.Topic(t.Context(), "survivor")
		return err == nil && after.ID == before.ID
	}, time.Minute, 100*time.Millisecond)
}
