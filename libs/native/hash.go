package native

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// HashVersion names the way in which HashRows hashes. Hashes of different versions cannot be compared.
const HashVersion = 1

// HashRows appends a hash of each of rows rows to dst. Each of the columns has that many rows; names are the columns'
// names. A row read back from the table has the hash of the row that was written, whatever the server made of its
// encoding.
//
// The order of the columns does not count. A value that is its type's default (0, "", NULL, an empty array) adds nothing, so that
// a column that a table got later leaves the hashes of the rows before it as they are. Values are hashed by what
// they are: an integer hashes the same in any width up to 64 bits, a float in any width, a string with and without a
// dictionary; -0 is 0, and there is one NaN. NULL is not 0.
//
// Columns must be Hashable. Those whose absent values the server computes (a DEFAULT) must be left out by the caller: their
// absent rows have no value here.
func HashRows(dst []uint64, rows int, names []string, columns []*Column) []uint64 {
	from := len(dst)
	dst = append(dst, make([]uint64, rows)...)
	out := dst[from:]
	values := make([]uint64, 0, rows)
	for i, c := range columns {
		seed := nameSeed(names[i])
		values = c.root.hash(values[:0])
		for row, h := range values {
			if h != 0 {
				out[row] += mix(h ^ seed)
			}
		}
	}
	for row, sum := range out {
		out[row] = mix(sum + rowSeed)
	}
	return dst
}

const (
	rowSeed   = 0x9e3779b97f4a7c15
	foldPrime = 0xff51afd7ed558ccd
	// aDefault stands for a type's default value where that is not the default of the whole: 0 in a Nullable.
	aDefault = 0xd6e8feb86659fd93
)

// nameSeed keeps equal values in different columns apart.
func nameSeed(name string) uint64 { return xxh3.HashString(name) | 1 }

// mix is a bijection that keeps 0 and spreads all else (the finalizer of MurmurHash3 with Stafford's constants).
func mix(h uint64) uint64 {
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}

// fold adds an element to the hash of a sequence.
func fold(h, element uint64) uint64 {
	return mix(bits.RotateLeft64(h, 23)*foldPrime + element + rowSeed)
}

// nonZero keeps 0 for defaults.
func nonZero(h uint64) uint64 {
	if h == 0 {
		return aDefault
	}
	return h
}

// Hashable says why a column of type t cannot be hashed so that it hashes the same when it is read back; nil: it can.
func Hashable(t *Type) error {
	switch t.kind {
	case kindJSON:
		return errors.New("the server keeps a JSON document as paths with types of its own finding, so that numbers, dates and nulls come back in other words")
	case kindDynamic:
		return errors.New("the server keeps Dynamic values with types that it may regroup")
	}
	for _, elem := range t.elems {
		if err := Hashable(elem); err != nil {
			return fmt.Errorf("%s: %w", elem.name, err)
		}
	}
	return nil
}

// HashesAlike tells whether every value of type a hashes the same as the equal value of type b: whether rows that were
// written as a can be compared after the column has become b.
func HashesAlike(a, b *Type) bool {
	a, b = withoutDictionary(a), withoutDictionary(b)
	if len(a.elems) != len(b.elems) {
		return false
	}
	switch {
	case isInteger(a) && isInteger(b), isFloat(a) && isFloat(b):
		return true
	case a.kind != b.kind:
		return false
	}
	switch a.kind {
	case kindEnum:
		return a.enum.lowest == b.enum.lowest // the default; numbers keep their meaning when values are added
	case kindVariant:
		return a.name == b.name
	case kindDateTime, kindDateTime64: // a zone is only how a time is shown
		return a.precision == b.precision
	}
	if a.scale != b.scale || a.kind != kindDecimal && a.precision != b.precision {
		return false
	}
	if a.width != b.width && (a.kind != kindDecimal || a.width > 8 || b.width > 8) {
		return false
	}
	for i := range a.elems {
		if !HashesAlike(a.elems[i], b.elems[i]) {
			return false
		}
	}
	return true
}

func withoutDictionary(t *Type) *Type {
	if t.kind == kindLowCardinality {
		return t.elems[0]
	}
	return t
}

func isInteger(t *Type) bool { return (t.kind == kindInt || t.kind == kindUint) && t.width <= 8 }
func isFloat(t *Type) bool   { return t.kind == kindFloat || t.kind == kindBFloat16 }

// hash of text: that of its bytes.
func (n *text) hash(dst []uint64) []uint64 {
	for pos, row := 0, 0; row < n.n; row++ {
		size, width := int(n.buf[pos]), 1
		if size >= 0x80 {
			var v uint64
			v, width = binary.Uvarint(n.buf[pos:])
			size = int(v)
		}
		pos += width
		if size == 0 {
			dst = append(dst, 0)
			continue
		}
		dst = append(dst, nonZero(xxh3.Hash(n.buf[pos:pos+size])))
		pos += size
	}
	return dst
}

func (n *nullable) hash(dst []uint64) []uint64 {
	from := len(dst)
	dst = n.inner.hash(dst)
	for row, null := range n.mask {
		if null != 0 {
			dst[from+row] = 0
		} else {
			dst[from+row] = nonZero(dst[from+row])
		}
	}
	return dst
}

// hash of an array: its elements in their order. Of a Map: its pairs in any order, since servers may sort them.
func (n *array) hash(dst []uint64) []uint64 {
	elements := n.inner.hash(nil)
	begin := 0
	for i := 0; i < len(n.ends); i += 8 {
		end := int(binary.LittleEndian.Uint64(n.ends[i:]))
		h := uint64(end - begin)
		for _, e := range elements[begin:end] {
			if n.pair != nil {
				h += mix(e + aDefault)
			} else {
				h = fold(h, e)
			}
		}
		if end > begin {
			h = nonZero(mix(h))
		}
		dst = append(dst, h)
		begin = end
	}
	return dst
}

func (n *tuple) hash(dst []uint64) []uint64 {
	from := len(dst)
	dst = append(dst, make([]uint64, n.rows())...)
	out := dst[from:]
	var values []uint64
	for i, c := range n.elems {
		values = c.hash(values[:0])
		for row, h := range values {
			if h != 0 { // a tuple of defaults is the default
				out[row] += fold(uint64(i), h)
			}
		}
	}
	return dst
}

// hash of a variant: its type by name, and the value. 0 is another value than NULL.
func (n *variant) hash(dst []uint64) []uint64 {
	values := make([][]uint64, len(n.elems))
	for i, c := range n.elems {
		values[i] = c.hash(nil)
	}
	for _, w := range n.which {
		if w == noVariant {
			dst = append(dst, 0)
			continue
		}
		dst = append(dst, nonZero(fold(n.seeds[w], values[w][0])))
		values[w] = values[w][1:]
	}
	return dst
}
