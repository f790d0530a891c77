package native

import (
	"encoding/binary"
	"errors"

	"sluice/libs/jsonread"
)

// nullable holds a byte for each row, 1 = NULL, and the values; a default stands behind a NULL.
type nullable struct {
	mask  []byte
	inner node
}

func (n *nullable) rows() int { return len(n.mask) }
func (n *nullable) size() int { return len(n.mask) + n.inner.size() }
func (n *nullable) reset() {
	n.mask = n.mask[:0]
	n.inner.reset()
}

func (n *nullable) mark(m []int) []int { return n.inner.mark(append(m, len(n.mask))) }
func (n *nullable) rollback(m []int) []int {
	n.mask = n.mask[:m[0]]
	return n.inner.rollback(m[1:])
}
func (n *nullable) truncate(rows int) {
	n.mask = n.mask[:rows]
	n.inner.truncate(rows)
}

func (n *nullable) appendJSON(v jsonread.Value) error {
	if v.Kind <= jsonread.Null {
		n.appendDefault()
		return nil
	}
	n.mask = append(n.mask, 0)
	return n.inner.appendJSON(v)
}

func (n *nullable) appendDefault() {
	n.mask = append(n.mask, 1)
	n.inner.appendDefault()
}

func (n *nullable) appendWire(dst []byte) []byte {
	return n.inner.appendWire(append(dst, n.mask...))
}

func (n *nullable) readWire(src []byte, rows int, keep []byte) ([]byte, error) {
	if len(src) < rows {
		return nil, errTooShort("the NULL mask", rows, len(src))
	}
	if !zeroOrOne(src[:rows]) {
		return nil, errors.New("NULL mask holds a byte that is neither 0 nor 1")
	}
	n.mask = appendRows(n.mask, src, 1, rows, keep)
	return n.inner.readWire(src[rows:], rows, keep)
}

func zeroOrOne(b []byte) bool {
	var or uint64
	for ; len(b) >= 8; b = b[8:] {
		or |= binary.LittleEndian.Uint64(b)
	}
	for _, c := range b {
		or |= uint64(c)
	}
	return or&^0x0101010101010101 == 0
}

func (n *nullable) prepare() error   { return n.inner.prepare() }
func (n *nullable) state(e *encoder) { n.inner.state(e) }
func (n *nullable) encode(e *encoder) {
	e.bytes(n.mask)
	n.inner.encode(e)
}
