package native

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// part walks a node in wire form from its first row to its last; the tree of parts has the shape of the type, as that
// of nodes has. The wire form of n rows is cut out of that of all rows.
type part interface {
	// open takes the wire form of rows rows at the begin of src and returns what follows it.
	open(src []byte, rows int) (rest []byte, err error)
	// cut appends the wire form of the next n rows, skip passes them over. There are as many.
	cut(dst []byte, n int) []byte
	skip(n int)
}

// newPart is the counterpart of newNode.
func newPart(t *Type) part {
	switch t.kind {
	case kindString, kindJSON, kindDynamic:
		return &textPart{}
	case kindVariant:
		return &variantPart{elems: newParts(t.elems), counts: make([]int, len(t.elems))}
	case kindTuple:
		if len(t.elems) > 0 {
			return tuplePart(newParts(t.elems))
		}
	case kindNullable:
		return &nullablePart{inner: newPart(t.elems[0])}
	case kindLowCardinality:
		return newPart(t.elems[0])
	case kindArray:
		return &arrayPart{inner: newPart(t.elems[0])}
	case kindMap:
		return &arrayPart{inner: tuplePart(newParts(t.elems))}
	}
	return &fixedPart{width: t.width}
}

func newParts(types []*Type) []part {
	parts := make([]part, 0, len(types))
	for _, t := range types {
		parts = append(parts, newPart(t))
	}
	return parts
}

type fixedPart struct {
	width int
	src   []byte
}

func (p *fixedPart) open(src []byte, rows int) ([]byte, error) {
	if len(src)/p.width < rows {
		return nil, errTooShort("a column of fixed width", rows*p.width, len(src))
	}
	p.src = src[:rows*p.width]
	return src[rows*p.width:], nil
}

func (p *fixedPart) cut(dst []byte, n int) []byte {
	dst = append(dst, p.src[:n*p.width]...)
	p.src = p.src[n*p.width:]
	return dst
}

func (p *fixedPart) skip(n int) { p.src = p.src[n*p.width:] }

type textPart struct{ src []byte }

func (p *textPart) open(src []byte, rows int) ([]byte, error) {
	end, err := skipStrings(src, rows)
	if err != nil {
		return nil, err
	}
	p.src = src[:end]
	return src[end:], nil
}

// next cuts n strings off, which open has found valid.
func (p *textPart) next(n int) []byte {
	end := 0
	for range n {
		size := int(p.src[end])
		end++
		if size >= 0x80 {
			v, width := binary.Uvarint(p.src[end-1:])
			end += width - 1
			size = int(v)
		}
		end += size
	}
	cut := p.src[:end]
	p.src = p.src[end:]
	return cut
}

func (p *textPart) cut(dst []byte, n int) []byte { return append(dst, p.next(n)...) }
func (p *textPart) skip(n int)                   { p.next(n) }

type nullablePart struct {
	mask  []byte
	inner part
}

func (p *nullablePart) open(src []byte, rows int) ([]byte, error) {
	if len(src) < rows {
		return nil, errTooShort("the NULL mask", rows, len(src))
	}
	if !zeroOrOne(src[:rows]) {
		return nil, errors.New("NULL mask holds a byte that is neither 0 nor 1")
	}
	p.mask = src[:rows]
	return p.inner.open(src[rows:], rows)
}

func (p *nullablePart) cut(dst []byte, n int) []byte {
	dst = append(dst, p.mask[:n]...)
	p.mask = p.mask[n:]
	return p.inner.cut(dst, n)
}

func (p *nullablePart) skip(n int) {
	p.mask = p.mask[n:]
	p.inner.skip(n)
}

type tuplePart []part

func (p tuplePart) open(src []byte, rows int) ([]byte, error) {
	for _, elem := range p {
		var err error
		if src, err = elem.open(src, rows); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func (p tuplePart) cut(dst []byte, n int) []byte {
	for _, elem := range p {
		dst = elem.cut(dst, n)
	}
	return dst
}

func (p tuplePart) skip(n int) {
	for _, elem := range p {
		elem.skip(n)
	}
}

type arrayPart struct {
	ends  []byte
	begin uint64 // where the next row begins
	inner part
}

func (p *arrayPart) open(src []byte, rows int) ([]byte, error) {
	if len(src)/8 < rows {
		return nil, errTooShort("the ends of arrays", rows*8, len(src))
	}
	p.ends, p.begin, src = src[:rows*8], 0, src[rows*8:]
	var last uint64
	for i := 0; i < len(p.ends); i += 8 {
		end := binary.LittleEndian.Uint64(p.ends[i:])
		if end < last || end > uint64(len(src)) {
			return nil, errors.New("ends of arrays are out of order or behind the data")
		}
		last = end
	}
	return p.inner.open(src, int(last))
}

func (p *arrayPart) cut(dst []byte, n int) []byte {
	end := p.begin
	for i := range n {
		end = binary.LittleEndian.Uint64(p.ends[8*i:])
		dst = binary.LittleEndian.AppendUint64(dst, end-p.begin)
	}
	dst = p.inner.cut(dst, int(end-p.begin))
	p.ends, p.begin = p.ends[8*n:], end
	return dst
}

func (p *arrayPart) skip(n int) {
	if n == 0 {
		return
	}
	end := binary.LittleEndian.Uint64(p.ends[8*n-8:])
	p.inner.skip(int(end - p.begin))
	p.ends, p.begin = p.ends[8*n:], end
}

type variantPart struct {
	which  []byte
	elems  []part
	counts []int // scratch
}

func (p *variantPart) count(which []byte) error {
	clear(p.counts)
	for _, w := range which {
		switch {
		case int(w) < len(p.counts):
			p.counts[w]++
		case w != noVariant:
			return errors.New("a discriminator of a Variant is out of range")
		}
	}
	return nil
}

func (p *variantPart) open(src []byte, rows int) ([]byte, error) {
	if len(src) < rows {
		return nil, errTooShort("the discriminators of a Variant", rows, len(src))
	}
	p.which, src = src[:rows], src[rows:]
	if err := p.count(p.which); err != nil {
		return nil, err
	}
	for i, elem := range p.elems {
		if p.counts[i] > len(src) {
			return nil, fmt.Errorf("%w: a Variant has more values than bytes", errCutWire)
		}
		var err error
		if src, err = elem.open(src, p.counts[i]); err != nil {
			return nil, err
		}
	}
	return src, nil
}

func (p *variantPart) cut(dst []byte, n int) []byte {
	dst = append(dst, p.which[:n]...)
	_ = p.count(p.which[:n]) // open has checked them
	p.which = p.which[n:]
	for i, elem := range p.elems {
		dst = elem.cut(dst, p.counts[i])
	}
	return dst
}

func (p *variantPart) skip(n int) {
	_ = p.count(p.which[:n])
	p.which = p.which[n:]
	for i, elem := range p.elems {
		elem.skip(p.counts[i])
	}
}
