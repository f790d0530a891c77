package native

import (
	"encoding/binary"
	"errors"

	"sluice/libs/jsonread"
)

// array holds where each row ends in inner (cumulative, 8 bytes each) and the elements of all rows.
// A Map is an array of pairs.
type array struct {
	ends  []byte
	inner node
	pair  *tuple // Map: inner as a tuple of key and value; else nil

	keep []byte // scratch of readWire: which elements are kept
}

func (n *array) rows() int { return len(n.ends) / 8 }
func (n *array) size() int { return len(n.ends) + n.inner.size() }
func (n *array) reset() {
	n.ends = n.ends[:0]
	n.inner.reset()
}

func (n *array) mark(m []int) []int { return n.inner.mark(append(m, len(n.ends))) }
func (n *array) rollback(m []int) []int {
	n.ends = n.ends[:m[0]]
	return n.inner.rollback(m[1:])
}
func (n *array) truncate(rows int) {
	n.ends = n.ends[:rows*8]
	n.inner.truncate(n.last())
}

// last is where the last row ends.
func (n *array) last() int {
	if len(n.ends) == 0 {
		return 0
	}
	return int(binary.LittleEndian.Uint64(n.ends[len(n.ends)-8:]))
}

func (n *array) appendJSON(v jsonread.Value) error {
	count := n.last()
	var err error
	switch {
	case v.Kind <= jsonread.Null:
		return errEmpty(v)
	case n.pair != nil && v.Kind == jsonread.Object:
		err = jsonread.Fields(v.Raw, func(key []byte, v jsonread.Value) error {
			count++
			if err := n.pair.elems[0].appendJSON(jsonread.Value{Kind: jsonread.String, Raw: key}); err != nil {
				return within(err, "key %q", shorten(key))
			}
			if err := n.pair.elems[1].appendJSON(v); err != nil {
				return within(err, "value of %q", shorten(key))
			}
			return nil
		})
	case n.pair == nil && v.Kind == jsonread.Array:
		start := count
		err = jsonread.Elements(v.Raw, func(v jsonread.Value) error {
			count++
			if err := n.inner.appendJSON(v); err != nil {
				return within(err, "element %d", count-start)
			}
			return nil
		})
	case n.pair != nil:
		return valueErrorf("%s is not an object, as a Map wants", show(v))
	default:
		return valueErrorf("%s is not an array", show(v))
	}
	if err != nil {
		return asValueError(v, err)
	}
	n.ends = binary.LittleEndian.AppendUint64(n.ends, uint64(count))
	return nil
}

// asValueError makes a ValueError of what walking v's text found.
func asValueError(v jsonread.Value, err error) error {
	var ve *ValueError
	if errors.As(err, &ve) {
		return err
	}
	return valueErrorf("%s is not valid JSON: %v", show(v), err)
}

func (n *array) appendDefault() {
	n.ends = binary.LittleEndian.AppendUint64(n.ends, uint64(n.last()))
}

func (n *array) appendWire(dst []byte) []byte {
	return n.inner.appendWire(append(dst, n.ends...))
}

func (n *array) readWire(src []byte, rows int, keep []byte) ([]byte, error) {
	if len(src)/8 < rows {
		return nil, errTooShort("the ends of arrays", rows*8, len(src))
	}
	ends, src := src[:rows*8], src[rows*8:]
	count := 0
	for i := 0; i < len(ends); i += 8 {
		end := binary.LittleEndian.Uint64(ends[i:])
		if end < uint64(count) || end > uint64(len(src)) {
			return nil, errors.New("ends of arrays are out of order or behind the data")
		}
		count = int(end)
	}
	if keep == nil {
		n.rebase(ends, 0, rows)
		return n.inner.readWire(src, count, nil)
	}
	n.keep = clearedBits(n.keep, count)
	for r := (runs{keep: keep, rows: rows}); ; {
		from, to := r.next()
		if from >= rows {
			break
		}
		setBits(n.keep, endBefore(ends, from), endBefore(ends, to))
		n.rebase(ends, from, to)
	}
	return n.inner.readWire(src, count, n.keep)
}

// endBefore is where the row before the given one ends.
func endBefore(ends []byte, row int) int {
	if row == 0 {
		return 0
	}
	return int(binary.LittleEndian.Uint64(ends[8*row-8:]))
}

// rebase appends the rows [from, to) of ends, moved to follow the last row.
func (n *array) rebase(ends []byte, from, to int) {
	shift := uint64(n.last() - endBefore(ends, from))
	if shift == 0 {
		n.ends = append(n.ends, ends[from*8:to*8]...)
		return
	}
	for i := from * 8; i < to*8; i += 8 {
		n.ends = binary.LittleEndian.AppendUint64(n.ends, binary.LittleEndian.Uint64(ends[i:])+shift)
	}
}

func (n *array) prepare() error   { return n.inner.prepare() }
func (n *array) state(e *encoder) { n.inner.state(e) }
func (n *array) encode(e *encoder) {
	e.bytes(n.ends)
	n.inner.encode(e)
}
