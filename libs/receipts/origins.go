package receipts

import (
	"encoding/binary"
	"iter"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
)

// A row's entry begins with a varint: four flags, and above them the left offset as a zigzag difference. Then, as the flags say, the left
// partition; of the right record the partition, and the offset as a zigzag difference. Differences are to the row before.
const (
	leftPartition  = 1 << iota // it is another than before
	rightPartition             // likewise
	noRight
	flagBits = 3
)

// appendOrigins appends from which records the selected rows of a join's batch were made: about four bytes a row.
func appendOrigins(dst []byte, v *batch.View) []byte {
	var last batch.Origin
	for row := range v.Rows {
		if !v.Selects(row) {
			continue
		}
		o := v.Origin(row)
		flags := uint64(0)
		if o.LeftPartition != last.LeftPartition {
			flags |= leftPartition
		}
		switch {
		case o.RightPartition == batch.NoRight:
			flags |= noRight
			o.RightPartition, o.RightOffset = last.RightPartition, last.RightOffset
		case o.RightPartition != last.RightPartition:
			flags |= rightPartition
		}
		dst = binary.AppendUvarint(dst, zigzag(o.LeftOffset-last.LeftOffset)<<flagBits|flags)
		if flags&leftPartition != 0 {
			dst = binary.AppendUvarint(dst, uint64(uint32(o.LeftPartition)))
		}
		if flags&rightPartition != 0 {
			dst = binary.AppendUvarint(dst, uint64(uint32(o.RightPartition)))
		}
		if flags&noRight == 0 {
			dst = binary.AppendVarint(dst, o.RightOffset-last.RightOffset)
		}
		last = o
	}
	return dst
}

func zigzag(n int64) uint64 { return uint64(n<<1) ^ uint64(n>>63) }

// Origins are from which records the rows of a join's batch were made; without their event times. A receipt that is damaged has fewer.
func Origins(b *eventv1.BatchReceipt) iter.Seq[batch.Origin] {
	return func(yield func(batch.Origin) bool) {
		var at batch.Origin
		d := decoder{rest: b.GetOrigins()}
		for len(d.rest) > 0 {
			head := d.uvarint()
			left := head >> flagBits
			at.LeftOffset += int64(left>>1) ^ -int64(left&1)
			if head&leftPartition != 0 {
				at.LeftPartition = int32(d.uvarint())
			}
			if head&rightPartition != 0 {
				at.RightPartition = int32(d.uvarint())
			}
			if head&noRight == 0 {
				right := d.uvarint()
				at.RightOffset += int64(right>>1) ^ -int64(right&1)
			}
			if d.bad {
				return
			}
			out := at
			if head&noRight != 0 {
				out.RightPartition, out.RightOffset = batch.NoRight, 0
			}
			if !yield(out) {
				return
			}
		}
	}
}

type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[size:]
	return n
}
