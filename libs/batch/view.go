// Package batch reads and writes event.v1.EventBatch, the unit that travels in the logs, without
// copying what need not be copied: a View's fields point into the message.
//
// It guarantees that a View which Parse returned without error is consistent: every per-row field
// has the length that rows demands, so that no reader of it can run out of bounds. It does not
// look into the columns; package native checks those.
package batch

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	eventv1 "sluice/gen/sluice/event/v1"
)

// The versions of the layout. A batch is written as FormatJoin if, and only if, it uses what pipelines with a join have, or says how far its
// partition has come, so that nothing changes for the others. No newer one is read.
const (
	Format     = 1
	FormatJoin = 2
)

const (
	// KeyBytes, TimeBytes, OffsetBytes, VersionBytes and OriginBytes are the sizes of one row's entry.
	KeyBytes     = 16
	TimeBytes    = 8
	OffsetBytes  = 4
	VersionBytes = 8
	OriginBytes  = 32
	// maxRows and maxColumnsSize bound what a hostile message can make a reader allocate.
	maxRows        = 16 << 20
	maxColumnsSize = 1 << 30
)

// ErrFormat says that a batch has a format that this version does not know.
var ErrFormat = errors.New("unknown batch format")

// View is an EventBatch whose bytes belong to the message that it was parsed from.
type View struct {
	Format         uint32
	SchemaRevision uint64
	Topic          []byte
	TopicID        []byte
	Partition      int32
	FirstOffset    int64
	LastOffset     int64
	Rewinds        uint32 // how often Kafka had given offsets of the partition out anew,
	RewoundTo      int64  // and from which one on the last time
	Rows           int
	Keys           []byte // rows × KeyBytes, or empty
	Times          []byte // rows × TimeBytes, or empty
	Offsets        []byte // rows × OffsetBytes; may be empty where there are Origins
	Versions       []byte // rows × VersionBytes, or empty
	Selection      []byte // bitmap, lowest bit first; empty = all
	Selected       int
	Compression    eventv1.Compression
	ColumnsSize    int
	Columns        []byte
	ArrivalMS      int64
	InputSequence  uint64
	Tally          Tally
	Traceparent    []byte
	OldestMS       int64  // oldest Kafka timestamp; 0: not known
	Source         []byte // with a join: name of the source; empty in what the join puts out
	JoinKeys       []byte // rows × KeyBytes, or empty
	EventTimes     []byte // rows × TimeBytes, or empty
	Progress       Progress
	Origins        []byte // rows × OriginBytes, or empty
	JoinPast       []byte // an event.v1.JoinPast; only in what the join puts out
	Behind         bool   // the partition has much more to read
	unknown        []byte // fields of a newer writer, passed on as they are
}

// Parse reads a message into v, whose earlier content is lost. v is valid as long as data is.
func (v *View) Parse(data []byte) error {
	*v = View{unknown: v.unknown[:0]}
	for rest := data; len(rest) > 0; {
		number, wire, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return fmt.Errorf("parse batch: %w", protowire.ParseError(n))
		}
		body := rest[n:]
		var size int
		switch wire {
		case protowire.VarintType:
			var x uint64
			if x, size = protowire.ConsumeVarint(body); size >= 0 && !v.setVarint(number, x) {
				v.unknown = append(v.unknown, rest[:n+size]...)
			}
		case protowire.BytesType:
			var b []byte
			if b, size = protowire.ConsumeBytes(body); size >= 0 {
				known, err := v.setBytes(number, b)
				if err != nil {
					return fmt.Errorf("parse batch: field %d: %w", number, err)
				}
				if !known {
					v.unknown = append(v.unknown, rest[:n+size]...)
				}
			}
		default:
			if size = protowire.ConsumeFieldValue(number, wire, body); size >= 0 {
				v.unknown = append(v.unknown, rest[:n+size]...)
			}
		}
		if size < 0 {
			return fmt.Errorf("parse batch: field %d: %w", number, protowire.ParseError(size))
		}
		rest = body[size:]
	}
	return v.check()
}

func (v *View) setVarint(number protowire.Number, x uint64) bool {
	switch number {
	case 1:
		v.Format = uint32(x)
	case 2:
		v.SchemaRevision = x
	case 4:
		v.Rows = int(min(x, maxRows+1))
	case 10:
		v.Selected = int(min(x, maxRows+1))
	case 11:
		v.Compression = eventv1.Compression(x)
	case 12:
		v.ColumnsSize = int(min(x, maxColumnsSize+1))
	case 14:
		v.ArrivalMS = int64(x)
	case 15:
		v.InputSequence = x
	case 23:
		v.OldestMS = int64(x)
	case 26:
		v.Behind = x != 0
	default:
		return false
	}
	return true
}

func (v *View) setBytes(number protowire.Number, b []byte) (bool, error) {
	switch number {
	case 3:
		return true, v.setKafka(b)
	case 5:
		v.Keys = b
	case 6:
		v.Times = b
	case 7:
		v.Offsets = b
	case 8:
		v.Versions = b
	case 9:
		v.Selection = b
	case 13:
		v.Columns = b
	case 16:
		return true, v.setTally(b)
	case 17:
		v.Traceparent = b
	case 18:
		v.Source = b
	case 19:
		v.JoinKeys = b
	case 20:
		v.EventTimes = b
	case 21:
		return true, v.setProgress(b)
	case 22:
		v.Origins = b
	case 24:
		v.JoinPast = b
	default:
		return false, nil
	}
	return true, nil
}

func (v *View) setKafka(b []byte) error {
	return eachField(b, func(number protowire.Number, x uint64, raw []byte) {
		switch number {
		case 1:
			v.Topic = raw
		case 2:
			v.TopicID = raw
		case 3:
			v.Partition = int32(x)
		case 4:
			v.FirstOffset = int64(x)
		case 5:
			v.LastOffset = int64(x)
		case 6:
			v.Rewinds = uint32(x)
		case 7:
			v.RewoundTo = int64(x)
		}
	})
}

func eachField(b []byte, set func(number protowire.Number, x uint64, raw []byte)) error {
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		var size int
		switch wire {
		case protowire.VarintType:
			var x uint64
			if x, size = protowire.ConsumeVarint(b); size >= 0 {
				set(number, x, nil)
			}
		case protowire.BytesType:
			var raw []byte
			if raw, size = protowire.ConsumeBytes(b); size >= 0 {
				set(number, 0, raw)
			}
		default:
			size = protowire.ConsumeFieldValue(number, wire, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
	}
	return nil
}
