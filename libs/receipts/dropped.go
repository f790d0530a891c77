package receipts

import (
	"encoding/binary"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
)

const (
	// maxDropped bounds what one batch's dropped offsets may take.
	maxDropped = 2 << 10
	// maxOrigins bounds what the origins of one batch of a join may take. A batch of rows of usual size has far less.
	maxOrigins = 256 << 10
)

// Describe tells of a batch what a receipt keeps. It copies what it needs of v.
func Describe(v *batch.View, sequence uint64, traceID []byte) *eventv1.BatchReceipt {
	out := &eventv1.BatchReceipt{
		Sequence: sequence, InputSequence: v.InputSequence, TopicId: append([]byte(nil), v.TopicID...), Partition: v.Partition,
		FirstOffset: v.FirstOffset, LastOffset: v.LastOffset, Rows: uint32(v.Rows), Selected: uint32(v.Selected),
		TraceId: traceID, Joined: len(v.Origins) > 0, Source: string(v.Source),
	}
	if out.Joined {
		out.Origins = appendOrigins(make([]byte, 0, min(4*v.Selected, maxOrigins)), v)
		if len(out.Origins) > maxOrigins {
			out.Origins = nil
		}
		return out
	}
	if v.Selected == v.Rows || v.Selected == 0 || len(v.Offsets) == 0 {
		return out // which were dropped goes without saying
	}
	last := v.FirstOffset
	dropped := make([]byte, 0, min(maxDropped, 2*(v.Rows-v.Selected)))
	for row := range v.Rows {
		if v.Selection[row/8]&(1<<(row%8)) != 0 {
			continue
		}
		offset := v.Offset(row)
		dropped = binary.AppendUvarint(dropped, uint64(offset-last))
		last = offset
		if len(dropped) > maxDropped {
			return out
		}
	}
	out.Dropped = dropped
	return out
}

// Fate is what a receipt knows of an offset.
type Fate int

// The fates. Another is an offset that is none of the batch's, for all that is known.
const (
	Another Fate = iota
	Kept
	Dropped
	// Either: the batch had too many dropped rows to name them.
	Either
)

// FateOf tells what became of an offset in a batch of its source. That the offset is in the batch's lane must be known: all that a receipt keeps is
// the range of offsets, and those that were dropped.
func FateOf(b *eventv1.BatchReceipt, topicID []byte, partition int32, offset int64) Fate {
	switch {
	case b.GetJoined(), b.GetPartition() != partition, string(b.GetTopicId()) != string(topicID),
		offset < b.GetFirstOffset(), offset > b.GetLastOffset(), b.GetRows() == 0:
		return Another
	case b.GetSelected() == b.GetRows():
		return Kept
	case b.GetSelected() == 0:
		return Dropped
	case len(b.GetDropped()) == 0:
		return Either
	}
	at := b.GetFirstOffset()
	for rest := b.GetDropped(); len(rest) > 0; {
		step, n := binary.Uvarint(rest)
		if n <= 0 {
			return Either
		}
		at, rest = at+int64(step), rest[n:]
		if at == offset {
			return Dropped
		}
	}
	return Kept
}
