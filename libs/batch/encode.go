package batch

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"

	eventv1 "sluice/gen/sluice/event/v1"
)

// Append appends the batch as a message to dst. The columns are copied as they are. The format is the oldest that can say it.
func (v *View) Append(dst []byte) []byte {
	joins := v.joins()
	if joins {
		dst = appendVarint(dst, 1, FormatJoin)
	} else {
		dst = appendVarint(dst, 1, Format)
	}
	dst = appendVarint(dst, 2, v.SchemaRevision)
	dst = appendNested(dst, 3, func(b []byte) []byte {
		b = appendBytes(b, 1, v.Topic)
		b = appendBytes(b, 2, v.TopicID)
		b = appendVarint(b, 3, uint64(int64(v.Partition)))
		b = appendVarint(b, 4, uint64(v.FirstOffset))
		b = appendVarint(b, 5, uint64(v.LastOffset))
		b = appendVarint(b, 6, uint64(v.Rewinds))
		return appendVarint(b, 7, uint64(v.RewoundTo))
	})
	dst = appendVarint(dst, 4, uint64(v.Rows))
	dst = appendBytes(dst, 5, v.Keys)
	dst = appendBytes(dst, 6, v.Times)
	dst = appendBytes(dst, 7, v.Offsets)
	dst = appendBytes(dst, 8, v.Versions)
	dst = appendBytes(dst, 9, v.Selection)
	dst = appendVarint(dst, 10, uint64(v.Selected))
	dst = appendVarint(dst, 11, uint64(v.Compression))
	dst = appendVarint(dst, 12, uint64(v.ColumnsSize))
	dst = appendBytes(dst, 13, v.Columns)
	dst = appendVarint(dst, 14, uint64(v.ArrivalMS))
	dst = appendVarint(dst, 15, v.InputSequence)
	dst = appendNested(dst, 16, func(b []byte) []byte {
		v.Tally.each(func(number protowire.Number, count *uint64) { b = appendVarint(b, number, *count) })
		return b
	})
	dst = appendBytes(dst, 17, v.Traceparent)
	if joins {
		dst = appendBytes(dst, 18, v.Source)
		dst = appendBytes(dst, 19, v.JoinKeys)
		dst = appendBytes(dst, 20, v.EventTimes)
		dst = appendNested(dst, 21, v.Progress.append)
		dst = appendBytes(dst, 22, v.Origins)
	}
	dst = appendVarint(dst, 23, uint64(v.OldestMS))
	dst = appendBytes(dst, 24, v.JoinPast)
	if v.Behind {
		dst = appendVarint(dst, 26, 1)
	}
	return append(dst, v.unknown...)
}

// Size is about how many bytes Append needs.
func (v *View) Size() int {
	return 256 + len(v.Topic) + len(v.Keys) + len(v.Times) + len(v.Offsets) + len(v.Versions) +
		len(v.Selection) + len(v.Columns) + len(v.unknown) + len(v.Source) + len(v.JoinKeys) + len(v.EventTimes) + len(v.Origins) + len(v.JoinPast)
}

func appendVarint(b []byte, number protowire.Number, x uint64) []byte {
	if x == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), x)
}

func appendBytes(b []byte, number protowire.Number, x []byte) []byte {
	if len(x) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), x)
}

func appendNested(b []byte, number protowire.Number, fill func([]byte) []byte) []byte {
	var scratch [512]byte
	return appendBytes(b, number, fill(scratch[:0]))
}

// SetColumns compresses raw columns into v, using scratch for the result, and returns the scratch
// to hand in next time. v is valid until then.
func (v *View) SetColumns(raw, scratch []byte) []byte {
	need := s2.MaxEncodedLen(len(raw))
	if cap(scratch) < need {
		scratch = make([]byte, need)
	}
	v.Compression = eventv1.Compression_COMPRESSION_S2
	v.ColumnsSize = len(raw)
	v.Columns = s2.Encode(scratch[:need], raw)
	return scratch
}

// RawColumns returns the columns decompressed, in dst if it is large enough.
func (v *View) RawColumns(dst []byte) ([]byte, error) {
	switch v.Compression {
	case eventv1.Compression_COMPRESSION_UNSPECIFIED:
		if len(v.Columns) != v.ColumnsSize {
			return nil, fmt.Errorf("columns: %d bytes, said are %d", len(v.Columns), v.ColumnsSize)
		}
		return v.Columns, nil
	case eventv1.Compression_COMPRESSION_S2:
		// The decoder allocates what the data says: look before.
		size, err := s2.DecodedLen(v.Columns)
		if err != nil {
			return nil, fmt.Errorf("columns: %w", err)
		}
		if size != v.ColumnsSize {
			return nil, fmt.Errorf("columns: %d bytes when decompressed, said are %d", size, v.ColumnsSize)
		}
		raw, err := s2.Decode(dst[:cap(dst)], v.Columns)
		if err != nil {
			return nil, fmt.Errorf("columns: %w", err)
		}
		return raw, nil
	case eventv1.Compression_COMPRESSION_ZSTD:
		decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(v.ColumnsSize)+1))
		if err != nil {
			return nil, fmt.Errorf("columns: %w", err)
		}
		defer decoder.Close()
		raw, err := decoder.DecodeAll(v.Columns, dst[:0])
		if err != nil {
			return nil, fmt.Errorf("columns: %w", err)
		}
		if len(raw) != v.ColumnsSize {
			return nil, fmt.Errorf("columns: %d bytes when decompressed, said are %d", len(raw), v.ColumnsSize)
		}
		return raw, nil
	}
	return nil, fmt.Errorf("columns: %w: compression %d", ErrFormat, v.Compression)
}

// AppendColumn appends one column to the raw columns: its length and its wire form.
func AppendColumn(dst []byte, appendWire func([]byte) []byte) []byte {
	at := len(dst)
	dst = appendWire(append(dst, 0, 0, 0, 0))
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

// NextColumn cuts the first column off the raw columns.
func NextColumn(raw []byte) (column, rest []byte, err error) {
	if len(raw) < 4 {
		return nil, nil, errors.New("columns: cut off")
	}
	size := uint64(binary.LittleEndian.Uint32(raw))
	if size > uint64(len(raw)-4) {
		return nil, nil, errors.New("columns: cut off")
	}
	return raw[4 : 4+size], raw[4+size:], nil
}
