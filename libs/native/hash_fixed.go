package native

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/zeebo/xxh3"
)

// form is how the bytes of a value of fixed width are to be hashed.
type form uint8

const (
	formBytes    form = iota
	formSigned        // up to 8 bytes
	formUnsigned      // up to 8 bytes
	formFloat
	formBFloat16
	formOffset  // up to 8 bytes; the default is another than 0
	formNothing // values without content
)

func formOf(t *Type) form {
	switch t.kind {
	case kindInt, kindDecimal, kindTime, kindTime64, kindDateTime64:
		if t.width <= 8 {
			return formSigned
		}
	case kindUint, kindBool, kindDate, kindDateTime, kindIPv4:
		if t.width <= 8 {
			return formUnsigned
		}
	case kindFloat:
		return formFloat
	case kindBFloat16:
		return formBFloat16
	case kindEnum, kindDate32:
		return formOffset
	case kindTuple, kindNothing:
		return formNothing
	}
	return formBytes
}

func (n *fixed) hash(dst []uint64) []uint64 {
	switch n.form {
	case formNothing:
		return append(dst, make([]uint64, n.rows())...)
	case formSigned:
		return n.hashSigned(dst)
	case formUnsigned:
		return n.hashUnsigned(dst)
	case formFloat, formBFloat16:
		return hashFloats(dst, n.buf, n.width)
	case formOffset:
		return n.hashOffset(dst)
	}
	for b := n.buf; len(b) > 0; b = b[n.width:] {
		h := uint64(0)
		if v := b[:n.width]; !bytes.Equal(v, n.zero) {
			h = nonZero(xxh3.Hash(v))
		}
		dst = append(dst, h)
	}
	return dst
}

func (n *fixed) hashSigned(dst []uint64) []uint64 {
	switch b := n.buf; n.width {
	case 1:
		for _, v := range b {
			dst = append(dst, mix(uint64(int8(v))))
		}
	case 2:
		for ; len(b) >= 2; b = b[2:] {
			dst = append(dst, mix(uint64(int16(binary.LittleEndian.Uint16(b)))))
		}
	case 4:
		for ; len(b) >= 4; b = b[4:] {
			dst = append(dst, mix(uint64(int32(binary.LittleEndian.Uint32(b)))))
		}
	default:
		for ; len(b) >= 8; b = b[8:] {
			dst = append(dst, mix(binary.LittleEndian.Uint64(b)))
		}
	}
	return dst
}

func (n *fixed) hashUnsigned(dst []uint64) []uint64 {
	switch b := n.buf; n.width {
	case 1:
		for _, v := range b {
			dst = append(dst, mix(uint64(v)))
		}
	case 2:
		for ; len(b) >= 2; b = b[2:] {
			dst = append(dst, mix(uint64(binary.LittleEndian.Uint16(b))))
		}
	case 4:
		for ; len(b) >= 4; b = b[4:] {
			dst = append(dst, mix(uint64(binary.LittleEndian.Uint32(b))))
		}
	default:
		for ; len(b) >= 8; b = b[8:] {
			dst = append(dst, mix(binary.LittleEndian.Uint64(b)))
		}
	}
	return dst
}

// hashOffset hashes the number where the default is not 0: the lowest of an Enum, 1900-01-01 of Date32.
func (n *fixed) hashOffset(dst []uint64) []uint64 {
	from := len(dst)
	dst = n.hashSigned(dst)
	for row := range n.rows() {
		if v := n.buf[row*n.width : (row+1)*n.width]; bytes.Equal(v, n.zero) {
			dst[from+row] = 0
		} else {
			dst[from+row] = nonZero(dst[from+row])
		}
	}
	return dst
}

func hashFloats(dst []uint64, b []byte, width int) []uint64 {
	for ; len(b) > 0; b = b[width:] {
		var f float64
		switch width {
		case 2:
			f = float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16))
		case 4:
			f = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
		default:
			f = math.Float64frombits(binary.LittleEndian.Uint64(b))
		}
		dst = append(dst, hashFloat(f))
	}
	return dst
}

// hashFloat takes -0 for 0: where most values of a column are defaults, servers store -0 as one of them.
func hashFloat(f float64) uint64 {
	switch {
	case f == 0:
		return 0
	case f != f:
		return aDefault
	}
	return mix(math.Float64bits(f))
}

// hash of a vector: its floats in their order.
func (n *qbit) hash(dst []uint64) []uint64 {
	for b := n.buf; len(b) > 0; b = b[n.width:] {
		h, plain := uint64(0), true
		for _, e := range hashFloats(nil, b[:n.width], n.element) {
			h, plain = fold(h, e), plain && e == 0
		}
		if plain {
			dst = append(dst, 0)
		} else {
			dst = append(dst, nonZero(h))
		}
	}
	return dst
}
