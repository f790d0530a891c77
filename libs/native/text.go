package native

import (
	"encoding/binary"
	"fmt"

	"sluice/libs/jsonread"
)

// text holds strings as Native does: a varint with the length before each.
type text struct {
	buf     []byte
	n       int
	scratch []byte
}

func (n *text) rows() int { return n.n }
func (n *text) size() int { return len(n.buf) }
func (n *text) reset()    { n.buf, n.n = n.buf[:0], 0 }

func (n *text) mark(m []int) []int { return append(m, len(n.buf), n.n) }
func (n *text) rollback(m []int) []int {
	n.buf, n.n = n.buf[:m[0]], m[1]
	return m[2:]
}

func (n *text) truncate(rows int) {
	end, err := skipStrings(n.buf, rows)
	if err != nil {
		panic(err) // rows is greater than n.n
	}
	n.buf, n.n = n.buf[:end], rows
}

func (n *text) appendJSON(v jsonread.Value) error {
	if v.Kind <= jsonread.Null {
		return errEmpty(v)
	}
	if v.Escaped {
		n.scratch = v.AppendText(n.scratch[:0])
		n.append(n.scratch)
		return nil
	}
	n.append(v.Raw)
	return nil
}

func (n *text) append(b []byte) {
	if len(b) < 0x80 {
		n.buf = append(n.buf, byte(len(b)))
	} else {
		n.buf = binary.AppendUvarint(n.buf, uint64(len(b)))
	}
	n.buf = append(n.buf, b...)
	n.n++
}

func (n *text) appendDefault() {
	n.buf = append(n.buf, 0)
	n.n++
}

func (n *text) appendWire(dst []byte) []byte { return append(dst, n.buf...) }

func (n *text) readWire(src []byte, rows int, keep []byte) ([]byte, error) {
	if keep == nil {
		end, err := skipStrings(src, rows)
		if err != nil {
			return nil, err
		}
		n.buf, n.n = append(n.buf, src[:end]...), n.n+rows
		return src[end:], nil
	}
	pos := 0
	for r := (runs{keep: keep, rows: rows}); ; {
		row := r.pos
		from, to := r.next()
		skipped, err := skipStrings(src[pos:], from-row)
		if err != nil {
			return nil, err
		}
		pos += skipped
		if from >= rows {
			return src[pos:], nil
		}
		taken, err := skipStrings(src[pos:], to-from)
		if err != nil {
			return nil, err
		}
		n.buf, n.n = append(n.buf, src[pos:pos+taken]...), n.n+to-from
		pos += taken
	}
}

// skipStrings returns the length of the first rows strings of b.
func skipStrings(b []byte, rows int) (int, error) {
	pos := 0
	for range rows {
		if uint(pos) >= uint(len(b)) {
			return 0, fmt.Errorf("%w within the strings", errCutWire)
		}
		size := int(b[pos])
		pos++
		if size >= 0x80 {
			v, width := binary.Uvarint(b[pos-1:])
			if width <= 0 || v > uint64(len(b)) {
				return 0, fmt.Errorf("%w within a string", errCutWire)
			}
			pos += width - 1
			size = int(v)
		}
		pos += size
	}
	if pos > len(b) {
		return 0, fmt.Errorf("%w within a string", errCutWire)
	}
	return pos, nil
}

// stringAt returns the string that begins at b[pos] and the index after it. b is known to be valid.
func stringAt(b []byte, pos int) (s []byte, end int) {
	size, width := binary.Uvarint(b[pos:])
	end = pos + width + int(size)
	return b[pos+width : end], end
}

func (n *text) prepare() error    { return nil }
func (n *text) state(*encoder)    {}
func (n *text) encode(e *encoder) { e.bytes(n.buf) }

// object holds JSON documents as text, which Native knows as a version of its own.
type object struct{ text }

// stringSerialization is the version of JSON in Native that is plain text.
const stringSerialization = 1

func (n *object) appendJSON(v jsonread.Value) error {
	if v.Kind <= jsonread.Null {
		return errEmpty(v)
	}
	if v.Kind != jsonread.Object {
		return valueErrorf("%s is not a JSON object", show(v))
	}
	return n.text.appendJSON(v)
}

func (n *object) appendDefault() { n.text.append([]byte("{}")) }

func (n *object) state(e *encoder) { e.uint64(stringSerialization) }
