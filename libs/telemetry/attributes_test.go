package telemetry

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// The newest conventions that come with the library. Names are written out in attributes.go, so that a newer library does not
// change what users' queries ask for; here is where it is noticed.
func TestNamesAreThoseOfTheConventions(t *testing.T) {
	for ours, theirs := range map[attribute.Key]attribute.Key{
		messagingSystem: semconv.MessagingSystemKey, messagingName: semconv.MessagingOperationNameKey, messagingType: semconv.MessagingOperationTypeKey,
		messagingTopic: semconv.MessagingDestinationNameKey, messagingPartition: semconv.MessagingDestinationPartitionIDKey,
		messagingCount: semconv.MessagingBatchMessageCountKey, messagingBody: semconv.MessagingMessageBodySizeKey,
		messagingGroup: semconv.MessagingConsumerGroupNameKey, messagingOffset: semconv.MessagingKafkaOffsetKey,
		dbSystem: semconv.DBSystemNameKey, dbOperation: semconv.DBOperationNameKey, dbBatchSize: semconv.DBOperationBatchSizeKey,
		dbCollection: semconv.DBCollectionNameKey, dbNamespace: semconv.DBNamespaceKey, dbStatus: semconv.DBResponseStatusCodeKey,
		errorType: semconv.ErrorTypeKey,
	} {
		require.Equal(t, theirs, ours)
	}
	kafka := attribute.NewSet(Kafka("orders", "group", 3, 10, 20, 29)...)
	require.True(t, kafka.HasValue(messagingGroup))
	for attr, set := range map[attribute.KeyValue]attribute.Set{
		semconv.MessagingSystemKafka: kafka, semconv.MessagingOperationTypeProcess: kafka,
		semconv.MessagingOperationTypeSend: attribute.NewSet(Append("s", "0", 1)...),
		semconv.DBSystemNameClickHouse:     attribute.NewSet(Insert("default", "orders", 1, "t")...),
	} {
		value, _ := set.Value(attr.Key)
		require.Equal(t, attr.Value.AsString(), value.AsString())
	}
}
