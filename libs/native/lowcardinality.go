package native

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// lowCardinality is its plain values until a block is written. Then encode builds one dictionary
// for the block.
type lowCardinality struct {
	node            // the values, maybe nullable
	mask *nullable  // node when it is nullable
	dict dictionary // scratch of encode
	nums []uint32
	out  []byte
}

// What Native says before the dictionary and the numbers of the rows.
const (
	dictionaryVersion = 1      // shared dictionaries with additional keys
	dictionaryFlags   = 3 << 9 // has additional keys, update the dictionary
)

func newLowCardinality(inner node) (node, error) {
	n := &lowCardinality{node: inner}
	if m, ok := inner.(*nullable); ok {
		n.mask, inner = m, m.inner
	}
	switch inner.(type) {
	case *fixed, *text:
		return n, nil
	}
	return nil, fmt.Errorf("LowCardinality of %T does not exist", inner)
}

func (n *lowCardinality) state(e *encoder) { e.uint64(dictionaryVersion) }

func (n *lowCardinality) encode(e *encoder) {
	rows := n.rows()
	if rows == 0 {
		return
	}
	n.number(rows)
	n.out = n.out[:0]
	width, tag := 4, 2
	switch size := n.dict.len(); {
	case size <= 1<<8:
		width, tag = 1, 0
	case size <= 1<<16:
		width, tag = 2, 1
	}
	n.out = slices.Grow(n.out, 8+width*rows)
	n.out = binary.LittleEndian.AppendUint64(n.out, uint64(rows))
	for _, num := range n.nums {
		switch width {
		case 1:
			n.out = append(n.out, byte(num))
		case 2:
			n.out = binary.LittleEndian.AppendUint16(n.out, uint16(num))
		default:
			n.out = binary.LittleEndian.AppendUint32(n.out, num)
		}
	}
	e.uint64(uint64(dictionaryFlags | tag))
	e.uint64(uint64(n.dict.len()))
	e.bytes(n.dict.keys)
	e.bytes(n.out)
}

// number fills dict and nums. With NULLs possible, number 0 is NULL, whatever key is there.
func (n *lowCardinality) number(rows int) {
	n.dict.reset()
	n.nums = slices.Grow(n.nums[:0], rows)
	var mask []byte
	values := n.node
	if n.mask != nil {
		mask, values = n.mask.mask, n.mask.inner
	}
	if mask != nil {
		n.dict.add(zeroKey(values))
	}
	pos := 0
	var last []byte // runs of one value are common
	var lastNum uint32
	for row := range rows {
		var key []byte
		key, pos = keyAt(values, pos)
		switch {
		case mask != nil && mask[row] != 0:
			n.nums = append(n.nums, 0)
			continue
		case last == nil || string(last) != string(key):
			last, lastNum = key, n.dict.number(key)
		}
		n.nums = append(n.nums, lastNum)
	}
}

// keyAt returns the Native bytes of the value at pos and the position after it.
func keyAt(values node, pos int) ([]byte, int) {
	switch n := values.(type) {
	case *fixed:
		return n.buf[pos : pos+n.width], pos + n.width
	case *text:
		_, end := stringAt(n.buf, pos)
		return n.buf[pos:end], end
	}
	panic("native: LowCardinality of an unexpected column")
}

func zeroKey(values node) []byte {
	if n, ok := values.(*fixed); ok {
		return n.zero
	}
	return []byte{0}
}
