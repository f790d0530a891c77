package native

import (
	"encoding/binary"
	"math/bits"
)

// uint256 is an unsigned integer of 256 bits, low word first.
type uint256 [4]uint64

// mulAdd makes n·m + a of n and tells whether that overflowed.
func (n *uint256) mulAdd(m, a uint64) (overflow bool) {
	for i := range n {
		hi, lo := bits.Mul64(n[i], m)
		var carry uint64
		n[i], carry = bits.Add64(lo, a, 0)
		a = hi + carry
	}
	return a != 0
}

func (n uint256) less(m uint256) bool {
	for i := 3; i > 0; i-- {
		if n[i] != m[i] {
			return n[i] < m[i]
		}
	}
	return n[0] < m[0]
}

func (n uint256) negate() uint256 {
	carry := uint64(1)
	for i := range n {
		n[i], carry = bits.Add64(^n[i], 0, carry)
	}
	return n
}

// powerOf10 is 10^exp, exp ≤ 76.
func powerOf10(exp int) uint256 {
	n := uint256{1}
	for range exp {
		n.mulAdd(10, 0)
	}
	return n
}

// powerOf2 is 2^exp, exp < 256.
func powerOf2(exp int) (n uint256) {
	n[exp/64] = 1 << (exp % 64)
	return n
}

// put writes the low len(dst) bytes of n; len(dst) is 16 or 32.
func (n uint256) put(dst []byte) {
	for i := 0; i < len(dst); i += 8 {
		binary.LittleEndian.PutUint64(dst[i:], n[i/8])
	}
}

// putInt writes v into dst, 1, 2, 4 or 8 bytes long. v fits.
func putInt(dst []byte, v int64) {
	switch len(dst) {
	case 1:
		dst[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(dst, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(dst, uint32(v))
	default:
		binary.LittleEndian.PutUint64(dst, uint64(v))
	}
}
