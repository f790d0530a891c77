package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

const (
	// fetchBytes of one round; the first batch always comes whole (KIP-74).
	fetchBytes = 1 << 20
	// peekBytes are for who only wants the first record: that of the first batch, as a rule.
	peekBytes = 16 << 10
	// fetchWait is how long a broker may look for bytes where there seem to be none.
	fetchWait = 50 * time.Millisecond
)

// fetch asks the leader of a partition for about so many bytes of records from offset on.
func (c *Cluster) fetch(topic string, partition int32, offset int64, bytes int32, i sarama.IsolationLevel) (*sarama.FetchResponseBlock, error) {
	leader, err := c.client.Leader(topic, partition)
	if err != nil {
		return nil, err
	}
	request := &sarama.FetchRequest{
		Version:      12,
		MinBytes:     1,
		MaxBytes:     bytes,
		MaxWaitTime:  int32(fetchWait / time.Millisecond),
		Isolation:    i,
		SessionEpoch: -1, // no fetch session
	}
	request.AddBlock(topic, partition, offset, bytes, -1)
	response, err := ask(leader, func() (*sarama.FetchResponse, error) { return leader.Fetch(request) })
	if err != nil {
		return nil, err
	}
	block := response.GetBlock(topic, partition)
	if block == nil { // as when a quota holds us back
		return nil, missing(topic, partition)
	}
	if err := kerror(sarama.KError(response.ErrorCode)); err != nil {
		return nil, err
	}
	if err := kerror(block.Err); err != nil {
		return nil, err
	}
	return block, nil
}

// records returns the records of a response from offset on that a consumer of that isolation gets to see, and the
// offset behind the last batch: what lies between is known not to be readable.
func records(topic string, partition int32, block *sarama.FetchResponseBlock, offset int64, i sarama.IsolationLevel) (
	seen []*sarama.ConsumerMessage, next int64, err error) {
	next = offset
	aborted := map[int64]bool{} // producers inside an aborted transaction
	pending := block.AbortedTransactions
	for _, set := range block.RecordsSet {
		if set.MsgSet != nil {
			old := oldRecords(topic, partition, set.MsgSet, offset)
			seen = append(seen, old...)
			if len(old) > 0 {
				next = max(next, old[len(old)-1].Offset+1)
			}
			continue
		}
		batch := set.RecordBatch
		if batch == nil || batch.PartialTrailingRecord {
			break
		}
		// The list is in order of first offsets; a transaction may begin inside this batch of its producer.
		for len(pending) > 0 && pending[0].FirstOffset <= batch.LastOffset() {
			aborted[pending[0].ProducerID] = true
			pending = pending[1:]
		}
		next = max(next, batch.LastOffset()+1)
		if batch.Control {
			abort, err := abortMarker(batch)
			if err != nil {
				return nil, 0, fmt.Errorf("read the transaction marker at offset %d: %w", batch.FirstOffset, err)
			}
			if abort {
				delete(aborted, batch.ProducerID)
			}
			continue
		}
		if i == sarama.ReadCommitted && batch.IsTransactional && aborted[batch.ProducerID] {
			continue
		}
		for _, r := range batch.Records {
			at := batch.FirstOffset + r.OffsetDelta
			if at < offset {
				continue // a batch comes whole, also when we ask from its middle
			}
			timestamp := batch.FirstTimestamp.Add(r.TimestampDelta)
			if batch.LogAppendTime {
				timestamp = batch.MaxTimestamp
			}
			seen = append(seen, &sarama.ConsumerMessage{
				Topic: topic, Partition: partition, Offset: at, Timestamp: timestamp,
				Key: r.Key, Value: r.Value, Headers: r.Headers,
			})
		}
	}
	return seen, next, nil
}

// abortMarker reads a control batch: one record, whose key is a version and a type. Types unknown here, such as a
// leader's epoch, end no transaction.
func abortMarker(batch *sarama.RecordBatch) (bool, error) {
	if len(batch.Records) == 0 {
		return false, nil // compacted
	}
	key := batch.Records[0].Key
	if len(key) < 4 {
		return false, errors.New("its key is too short")
	}
	return binary.BigEndian.Uint16(key[2:]) == 0, nil
}

// oldRecords reads the formats from before Kafka 0.11, which brokers before 4.0 still hand out.
func oldRecords(topic string, partition int32, set *sarama.MessageSet, offset int64) []*sarama.ConsumerMessage {
	var seen []*sarama.ConsumerMessage
	for _, outer := range set.Messages {
		inner := outer.Messages()
		for _, m := range inner {
			at, timestamp := m.Offset, m.Msg.Timestamp
			if m.Msg.Version >= 1 {
				at += outer.Offset - inner[len(inner)-1].Offset // relative to the wrapper's
				if m.Msg.LogAppendTime {
					timestamp = outer.Msg.Timestamp
				}
			}
			if at >= offset {
				seen = append(seen, &sarama.ConsumerMessage{
					Topic: topic, Partition: partition, Offset: at, Timestamp: timestamp,
					BlockTimestamp: outer.Msg.Timestamp, Key: m.Msg.Key, Value: m.Msg.Value,
				})
			}
		}
	}
	return seen
}

// end is where a partition ends for a consumer of that isolation, as a fetch response tells.
func end(block *sarama.FetchResponseBlock, i sarama.IsolationLevel) int64 {
	if i == sarama.ReadCommitted {
		return block.LastStableOffset
	}
	return block.HighWaterMarkOffset
}
