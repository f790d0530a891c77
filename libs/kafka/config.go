package kafka

import (
	"time"

	"github.com/IBM/sarama"

	controlv1 "sluice/gen/sluice/control/v1"
)

// RetryBackoff is how long a consumer waits after it has lost a partition (a failed fetch, a topic
// that is gone) before it reads on: it is silent at least that long.
const RetryBackoff = 500 * time.Millisecond

// Config returns sarama's configuration for a source: connection, authentication, and a consumer group tuned for
// throughput. It reads the secrets now, and the certificates; an error is a *ConfigError.
//
// The caller owns the result. What a consumer must know of it: offsets that were marked are committed every second;
// an offset out of range is an error, never a silent reset; errors must be read from the group's Errors channel.
func Config(source *controlv1.KafkaSource, clientID string) (*sarama.Config, error) {
	c := sarama.NewConfig()
	c.ClientID = clientID
	c.MetricRegistry = noMetrics{}

	// The version caps what we speak; each broker's ApiVersions lowers it request by request. 2.8 brought topic ids.
	c.Version = sarama.V3_6_0_0
	c.ApiVersionsRequest = true

	c.Net.DialTimeout = 10 * time.Second
	c.Net.ReadTimeout = 30 * time.Second
	c.Net.WriteTimeout = 30 * time.Second
	c.Net.KeepAlive = 30 * time.Second

	// Only our topic, not the cluster's thousands; and never create what we merely look at. The group's leader
	// compares partition counts at this frequency: a topic that grew is read after at most twice the time.
	c.Metadata.Full = false
	c.Metadata.AllowAutoTopicCreation = false
	c.Metadata.RefreshFrequency = 10 * time.Second
	c.Metadata.Retry.Max = 5
	c.Metadata.Retry.Backoff = 250 * time.Millisecond

	consumer(c, source)
	if err := secure(c, source); err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, &ConfigError{Field: "source.kafka", Err: err}
	}
	return c, nil
}

func consumer(c *sarama.Config, source *controlv1.KafkaSource) {
	c.Consumer.IsolationLevel = isolation(source.GetIsolation())
	c.Consumer.Return.Errors = true

	// Bytes asked of one partition in one round. A larger record still comes: the broker sends the first batch whole
	// (KIP-74), up to sarama's limit of 100 MiB for a response; so there is no Fetch.Max, beyond which sarama would
	// skip a record. 2 MiB keep the pause between two rounds small against the work of one.
	c.Consumer.Fetch.Min = 1
	c.Consumer.Fetch.Default = 2 << 20
	c.Consumer.Fetch.Max = 0
	// Bytes of one response, of all partitions of a broker: bounds memory together with the two below.
	c.Consumer.Fetch.MaxBytes = 32 << 20
	// How long a broker holds a request while there is nothing. New records answer it at once.
	c.Consumer.MaxWaitTime = 250 * time.Millisecond
	// Messages of a partition that wait for us: enough that the two sides of the channel, each of which sleeps when it finds it empty or full,
	// wake each other seldom. It holds messages, not bytes: whoever consumes bounds those.
	c.ChannelBufferSize = 1024
	// How long a full channel may hold up the other partitions of its broker; then it is parked.
	c.Consumer.MaxProcessingTime = 250 * time.Millisecond

	// After a failed fetch; sarama's 2 s would be most of a broker's restart.
	c.Consumer.Retry.Backoff = RetryBackoff

	// Whoever consumes sets the start of each partition itself. Where it has not, nothing is skipped; and an offset
	// that is gone ends the session instead of jumping.
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Group.ResetInvalidOffsets = false
	c.Consumer.Offsets.AutoCommit.Enable = true
	// What was not committed before NATS lost all that it had since is not known to be in the table.
	c.Consumer.Offsets.AutoCommit.Interval = 250 * time.Millisecond

	// Kafka allows no shorter session by default; a killed consumer's partitions move after this time.
	c.Consumer.Group.Session.Timeout = 6 * time.Second
	c.Consumer.Group.Heartbeat.Interval = 2 * time.Second
	c.Consumer.Group.Rebalance.Timeout = 30 * time.Second
	c.Consumer.Group.Rebalance.Retry.Max = 10
	c.Consumer.Group.Rebalance.Retry.Backoff = 500 * time.Millisecond
	// Eager, so that Setup sees every claim of a session and can set its start; cooperative strategies call Setup
	// once for many assignments.
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
}
