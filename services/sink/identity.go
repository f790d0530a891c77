package sink

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"sluice/libs/batch"
)

// identity is a hash of where the rows of a block come from, in their order: which records, read under which schema revision. It is the same however often the
// block is made of the same messages. Two blocks that differ have the same one with a probability of 2^-64.
type identity struct {
	sum     uint64
	scratch []byte
}

// add takes the selected rows of a message in.
func (i *identity) add(v *batch.View) {
	b := i.scratch[:0]
	b = append(b, v.Topic...)
	b = append(b, 0)
	b = append(b, v.TopicID...)
	for _, n := range []uint64{v.SchemaRevision, uint64(v.Partition), uint64(v.Rewinds), uint64(v.Selected)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	for row := range v.Rows {
		switch {
		case !v.Selects(row):
		case len(v.Origins) > 0:
			b = append(b, v.Origins[row*batch.OriginBytes:][:batch.OriginBytes]...)
		default:
			b = binary.LittleEndian.AppendUint64(b, uint64(v.Offset(row)))
		}
	}
	i.scratch, i.sum = b, xxh3.HashSeed(b, i.sum)
}

// value is never 0, which says that there is none.
func (i *identity) value() uint64 { return max(i.sum, 1) }

func (i *identity) reset() { i.sum = 0 }
