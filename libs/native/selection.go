package native

import (
	"encoding/binary"
	"math/bits"
)

// runs walks the runs of consecutive rows that a bitmap keeps. One bit a row, lowest bit first;
// a nil bitmap keeps all rows.
type runs struct {
	keep []byte
	rows int
	pos  int
}

// next returns the next run [from, to); from == rows at the end.
func (r *runs) next() (from, to int) {
	if r.keep == nil {
		from, r.pos = r.pos, r.rows
		return from, r.rows
	}
	from = seek(r.keep, r.pos, r.rows, 0)
	to = seek(r.keep, from, r.rows, ^uint64(0))
	r.pos = to
	return from, to
}

// seek returns the first row from pos on whose bit is not that of flip: flip 0 finds a set bit.
func seek(keep []byte, pos, rows int, flip uint64) int {
	for pos < rows {
		w := (word(keep, pos>>3) ^ flip) >> (pos & 7)
		if w != 0 {
			return min(pos+bits.TrailingZeros64(w), rows)
		}
		pos += 64 - pos&7
	}
	return rows
}

// word loads the 8 bytes of b at i; what lies behind the end counts as zero.
func word(b []byte, i int) uint64 {
	if i+8 <= len(b) {
		return binary.LittleEndian.Uint64(b[i:])
	}
	var w uint64
	for k := len(b) - 1; k >= i; k-- {
		w = w<<8 | uint64(b[k])
	}
	return w
}

// kept counts the rows that keep lets through.
func kept(keep []byte, rows int) int {
	if keep == nil {
		return rows
	}
	n := 0
	for i := 0; i < rows; i += 64 {
		w := word(keep, i>>3)
		if left := rows - i; left < 64 {
			w &= 1<<left - 1
		}
		n += bits.OnesCount64(w)
	}
	return n
}

func bit(mask []byte, row int) bool { return mask[row>>3]>>(row&7)&1 != 0 }

// clearedBits returns a bitmap of n zero bits in the memory of b.
func clearedBits(b []byte, n int) []byte {
	size := (n + 7) / 8
	if cap(b) < size {
		return make([]byte, size)
	}
	b = b[:size]
	clear(b)
	return b
}

// setBits sets the bits [from, to).
func setBits(mask []byte, from, to int) {
	for from < to && from&7 != 0 {
		mask[from>>3] |= 1 << (from & 7)
		from++
	}
	for ; from+8 <= to; from += 8 {
		mask[from>>3] = 0xff
	}
	for ; from < to; from++ {
		mask[from>>3] |= 1 << (from & 7)
	}
}
