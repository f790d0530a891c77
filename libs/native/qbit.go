package native

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"sluice/libs/jsonread"
)

// qbit holds vectors as plain floats until a block is written. Native wants them as bit planes:
// for each bit of the element type, highest first, a FixedString per row with that bit of each element.
type qbit struct {
	*fixed
	element int // bytes
	planes  []byte
}

func newQBit(t *Type) (node, error) {
	elem := t.elems[0]
	convert := floatConverter(elem)
	zero := make([]byte, t.width)
	n := &qbit{element: elem.width, fixed: &fixed{width: t.width, zero: zero, blank: zero, form: formBytes}}
	n.convert = func(dst []byte, v jsonread.Value) error {
		if v.Kind != jsonread.Array {
			return valueErrorf("%s is not an array", show(v))
		}
		pos := 0
		err := jsonread.Elements(v.Raw, func(v jsonread.Value) error {
			if pos += elem.width; pos > len(dst) {
				return nil
			}
			if v.Kind == jsonread.Null {
				return errEmpty(v)
			}
			if err := convert(dst[pos-elem.width:pos], v); err != nil {
				return within(err, "element %d", pos/elem.width)
			}
			return nil
		})
		if err != nil {
			return asValueError(v, err)
		}
		if pos != len(dst) {
			return valueErrorf("%s has %d elements, %s has %d", show(v), pos/elem.width, t.name, t.precision)
		}
		return nil
	}
	return n, nil
}

func (n *qbit) encode(e *encoder) {
	dimension := n.width / n.element
	stride := (dimension + 7) / 8 // bytes of a plane per row
	rows := n.rows()
	size := 8 * n.element * rows * stride
	n.planes = slices.Grow(n.planes[:0], size)[:size]
	clear(n.planes)
	for row := range rows {
		for k := range dimension {
			at := row*n.width + k*n.element
			v := loadUint(n.buf[at : at+n.element])
			for v != 0 {
				b := bits.TrailingZeros64(v)
				v &= v - 1
				plane := 8*n.element - 1 - b
				// Element 0 is the lowest bit of the last byte.
				n.planes[(plane*rows+row)*stride+stride-1-k/8] |= 1 << (k & 7)
			}
		}
	}
	e.bytes(n.planes)
}

// loadUint reads an unsigned integer of 2, 4 or 8 bytes.
func loadUint(b []byte) uint64 {
	switch len(b) {
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}
