package native

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ClickHouse/ch-go/proto"
)

// ReadBlock reads the column's part of a block that a server sends in answer to a SELECT, after the name and the type.
// The column must be empty and not optional. rows is what the block's head says; memory grows with what is
// read, not with what is announced. After an error the column is of no use.
//
// JSON and Dynamic cannot be read back: see Hashable.
func (c *Column) ReadBlock(r *proto.Reader, rows int) error {
	if c.n != 0 || c.optional {
		panic("native: ReadBlock into a column that has rows or is optional")
	}
	c.marked = -1
	if rows == 0 {
		return nil
	}
	d := &decoder{in: r}
	err := c.root.decodeState(d)
	if err == nil {
		err = c.root.decode(d, rows)
	}
	if err != nil {
		return fmt.Errorf("column of %s: %w", c.typ.name, err)
	}
	c.n = rows
	return nil
}

// decoder reads what a server sends.
type decoder struct{ in *proto.Reader }

// decodeStep is how much is read at once, so that a length that is wrong costs no more than that.
const decodeStep = 1 << 20

// append appends the next n bytes to dst.
func (d *decoder) append(dst []byte, n int) ([]byte, error) {
	for n > 0 {
		part := min(n, decodeStep)
		at := len(dst)
		dst = slices.Grow(dst, part)[:at+part]
		if err := d.in.ReadFull(dst[at:]); err != nil {
			return nil, err
		}
		n -= part
	}
	return dst, nil
}

func (d *decoder) uint64() (uint64, error) { return d.in.UInt64() }

// count checks a number of rows that came over the wire.
func count(n uint64, width int) (int, error) {
	if n > math.MaxInt32*64 || width > 0 && n > math.MaxInt/uint64(width) {
		return 0, fmt.Errorf("%d values in a column", n)
	}
	return int(n), nil
}

func (n *fixed) decodeState(*decoder) error { return nil }
func (n *fixed) decode(d *decoder, rows int) (err error) {
	n.buf, err = d.append(n.buf, rows*n.width)
	return err
}

func (n *text) decodeState(*decoder) error { return nil }
func (n *text) decode(d *decoder, rows int) error {
	for range rows {
		size, err := d.in.UVarInt()
		if err != nil {
			return err
		}
		if size > math.MaxInt32 {
			return fmt.Errorf("a string of %d bytes", size)
		}
		n.buf = binary.AppendUvarint(n.buf, size)
		if n.buf, err = d.append(n.buf, int(size)); err != nil {
			return err
		}
		n.n++
	}
	return nil
}

var errNoReadBack = errors.New("values of JSON and Dynamic are not read back")

func (n *object) decodeState(*decoder) error  { return errNoReadBack }
func (n *dynamic) decodeState(*decoder) error { return errNoReadBack }

func (n *nullable) decodeState(d *decoder) error { return n.inner.decodeState(d) }
func (n *nullable) decode(d *decoder, rows int) (err error) {
	if n.mask, err = d.append(n.mask, rows); err != nil {
		return err
	}
	if !zeroOrOne(n.mask) {
		return errors.New("NULL mask holds a byte that is neither 0 nor 1")
	}
	return n.inner.decode(d, rows)
}

func (n *array) decodeState(d *decoder) error { return n.inner.decodeState(d) }
func (n *array) decode(d *decoder, rows int) (err error) {
	if n.ends, err = d.append(n.ends, rows*8); err != nil {
		return err
	}
	last := uint64(0)
	for i := 0; i < len(n.ends); i += 8 {
		end := binary.LittleEndian.Uint64(n.ends[i:])
		if end < last {
			return errors.New("ends of arrays are out of order")
		}
		last = end
	}
	elements, err := count(last, 32)
	if err != nil {
		return err
	}
	return n.inner.decode(d, elements)
}

func (n *tuple) decodeState(d *decoder) error {
	for _, c := range n.elems {
		if err := c.decodeState(d); err != nil {
			return err
		}
	}
	return nil
}

func (n *tuple) decode(d *decoder, rows int) error {
	for _, c := range n.elems {
		if err := c.decode(d, rows); err != nil {
			return err
		}
	}
	return nil
}

func (n *variant) decodeState(d *decoder) error {
	mode, err := d.uint64()
	if err != nil {
		return err
	}
	if mode != basicDiscriminators {
		return fmt.Errorf("discriminators of a Variant in the form %d, which is not known", mode)
	}
	for _, c := range n.elems {
		if err := c.decodeState(d); err != nil {
			return err
		}
	}
	return nil
}

func (n *variant) decode(d *decoder, rows int) (err error) {
	if n.which, err = d.append(n.which, rows); err != nil {
		return err
	}
	var counts [noVariant + 1]int
	for _, w := range n.which {
		if int(w) >= len(n.elems) && w != noVariant {
			return errors.New("a discriminator of a Variant is out of range")
		}
		counts[w]++
	}
	for i, c := range n.elems {
		if err := c.decode(d, counts[i]); err != nil {
			return err
		}
	}
	return nil
}

// decode turns bit planes into floats again.
func (n *qbit) decode(d *decoder, rows int) (err error) {
	stride := (n.width/n.element + 7) / 8
	if n.planes, err = d.append(n.planes[:0], 8*n.element*rows*stride); err != nil {
		return err
	}
	n.buf = append(n.buf, make([]byte, rows*n.width)...)
	for row := range rows {
		for k := range n.width / n.element {
			value := n.buf[row*n.width+k*n.element:]
			for plane := range 8 * n.element {
				if n.planes[(plane*rows+row)*stride+stride-1-k/8]>>(k&7)&1 != 0 {
					b := 8*n.element - 1 - plane
					value[b/8] |= 1 << (b % 8)
				}
			}
		}
	}
	return nil
}
