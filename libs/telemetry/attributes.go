package telemetry

import (
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Names of OpenTelemetry's semantic conventions 1.43 for messaging and databases.
const (
	messagingSystem    = attribute.Key("messaging.system")
	messagingName      = attribute.Key("messaging.operation.name")
	messagingType      = attribute.Key("messaging.operation.type")
	messagingTopic     = attribute.Key("messaging.destination.name")
	messagingPartition = attribute.Key("messaging.destination.partition.id")
	messagingCount     = attribute.Key("messaging.batch.message_count")
	messagingBody      = attribute.Key("messaging.message.body.size")
	messagingGroup     = attribute.Key("messaging.consumer.group.name")
	messagingOffset    = attribute.Key("messaging.kafka.offset")

	dbSystem     = attribute.Key("db.system.name")
	dbOperation  = attribute.Key("db.operation.name")
	dbBatchSize  = attribute.Key("db.operation.batch.size")
	dbCollection = attribute.Key("db.collection.name")
	dbNamespace  = attribute.Key("db.namespace")
	dbStatus     = attribute.Key("db.response.status_code")

	errorType = attribute.Key("error.type")
)

// Names of our own.
const (
	sluicePipeline   = attribute.Key("sluice.pipeline")
	sluiceSource     = attribute.Key("sluice.source")
	sluiceLane       = attribute.Key("sluice.lane")
	sluiceWriter     = attribute.Key("sluice.writer")
	sluiceFirst      = attribute.Key("sluice.offset.first")
	sluiceLast       = attribute.Key("sluice.offset.last")
	sluiceSequence   = attribute.Key("sluice.sequence")
	sluiceInput      = attribute.Key("sluice.input.sequence")
	sluiceRows       = attribute.Key("sluice.rows")
	sluiceRowsOut    = attribute.Key("sluice.rows.out")
	sluiceDuplicates = attribute.Key("sluice.duplicates")
	sluiceRefused    = attribute.Key("sluice.dead_letters")
	sluiceBytes      = attribute.Key("sluice.bytes")
	sluiceBlockFirst = attribute.Key("sluice.block.first")
	sluiceBlockLast  = attribute.Key("sluice.block.last")
	sluiceToken      = attribute.Key("sluice.token")
	sluiceUnlinked   = attribute.Key("sluice.unlinked")
)

// Kafka describes records that were read: messaging's "process".
func Kafka(topic, group string, partition int32, records int, first, last int64) []attribute.KeyValue {
	out := []attribute.KeyValue{
		messagingSystem.String("kafka"), messagingName.String("process"), messagingType.String("process"),
		messagingTopic.String(topic), messagingPartition.String(strconv.Itoa(int(partition))),
		messagingCount.Int(records), messagingOffset.Int64(first), sluiceFirst.Int64(first), sluiceLast.Int64(last),
	}
	if group != "" {
		out = append(out, messagingGroup.String(group))
	}
	return out
}

// Append describes a message that goes into a log: messaging's "send".
func Append(stream, writer string, bytes int) []attribute.KeyValue {
	return []attribute.KeyValue{
		messagingSystem.String("nats"), messagingName.String("send"), messagingType.String("send"),
		messagingTopic.String(stream), messagingBody.Int(bytes), sluiceWriter.String(writer),
	}
}

// Read describes a message that was read from a log: messaging's "process".
func Read(stream, writer string, sequence uint64, bytes int) []attribute.KeyValue {
	return []attribute.KeyValue{
		messagingSystem.String("nats"), messagingName.String("process"), messagingType.String("process"),
		messagingTopic.String(stream), messagingBody.Int(bytes), sluiceWriter.String(writer), Sequence(sequence),
	}
}

// Insert describes an INSERT of a block into ClickHouse.
func Insert(database, table string, rows int, token string) []attribute.KeyValue {
	return []attribute.KeyValue{
		dbSystem.String("clickhouse"), dbOperation.String("INSERT"), dbNamespace.String(database),
		dbCollection.String(table), dbBatchSize.Int(rows), sluiceToken.String(token),
	}
}

// Lane says whose work it is.
func Lane(pipeline string, lane int) []attribute.KeyValue {
	return []attribute.KeyValue{sluicePipeline.String(pipeline), sluiceLane.Int(lane)}
}

// Source is the source's name in a pipeline with a join.
func Source(name string) attribute.KeyValue { return sluiceSource.String(name) }

// Offsets is the range of Kafka offsets of a batch.
func Offsets(partition int32, first, last int64) []attribute.KeyValue {
	return []attribute.KeyValue{
		messagingPartition.String(strconv.Itoa(int(partition))), sluiceFirst.Int64(first), sluiceLast.Int64(last),
	}
}

// Sequence is the place of a message in its stream. Attributes have no unsigned integers; streams do not get that long.
func Sequence(n uint64) attribute.KeyValue { return sluiceSequence.Int64(int64(n)) }

// InputSequence is the place of the message that an output was made from.
func InputSequence(n uint64) attribute.KeyValue { return sluiceInput.Int64(int64(n)) }

// Rows is how many rows came in.
func Rows(n int) attribute.KeyValue { return sluiceRows.Int(n) }

// RowsOut is how many of them, or made of them, went on.
func RowsOut(n int) attribute.KeyValue { return sluiceRowsOut.Int(n) }

// Duplicates is how many of them were dropped as such.
func Duplicates(n int) attribute.KeyValue { return sluiceDuplicates.Int(n) }

// Refused is how many of them became dead letters.
func Refused(n int) attribute.KeyValue { return sluiceRefused.Int(n) }

// Bytes is the size of a block, uncompressed.
func Bytes(n int) attribute.KeyValue { return sluiceBytes.Int(n) }

// Unlinked is how many traces came together beyond those that are linked.
func Unlinked(n int) attribute.KeyValue { return sluiceUnlinked.Int(n) }

// Block is the range of a lane's log that is inserted at once.
func Block(first, last uint64) []attribute.KeyValue {
	return []attribute.KeyValue{sluiceBlockFirst.Int64(int64(first)), sluiceBlockLast.Int64(int64(last))}
}

// Fail ends a span's good name: class is what the error means, from a bounded set; code the server's, "" for none.
func Fail(span trace.Span, err error, class, code string) {
	if err == nil || !span.IsRecording() {
		return
	}
	span.SetStatus(codes.Error, err.Error())
	span.SetAttributes(errorType.String(class))
	if code != "" {
		span.SetAttributes(dbStatus.String(code))
	}
}
