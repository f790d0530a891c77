package native

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"sluice/libs/jsonread"
)

// noVariant is the discriminator of NULL.
const noVariant = 255

// basicDiscriminators is Native's mode with one discriminator per row.
const basicDiscriminators = 0

// variant holds a discriminator for each row and the values of each type, without gaps.
type variant struct {
	name  string
	which []byte
	elems []node
	takes []kindSet
	plain order // which of elems to try for numbers without a point, and for all else
	real  order // the same for numbers with a point or an exponent

	marks []int    // scratch of appendJSON
	keeps [][]byte // scratch of readWire: for each element which of its rows are kept

	seeds []uint64 // of hash: a number for each type
}

type order []int

func newVariant(t *Type) (*variant, error) {
	n := &variant{name: t.name, keeps: make([][]byte, len(t.elems))}
	for i, elem := range t.elems {
		c, err := newNode(elem)
		if err != nil {
			return nil, err
		}
		n.elems, n.takes = append(n.elems, c), append(n.takes, naturalKinds(elem))
		n.plain, n.real = append(n.plain, i), append(n.real, i)
		n.seeds = append(n.seeds, nameSeed(elem.name))
	}
	by := func(decimals int) func(a, b int) int {
		return func(a, b int) int {
			return cmp.Or(variantOrder(t.elems[a], decimals)-variantOrder(t.elems[b], decimals), t.elems[a].width-t.elems[b].width, a-b)
		}
	}
	slices.SortStableFunc(n.plain, by(2)) // integers are 1
	slices.SortStableFunc(n.real, by(-1))
	return n, nil
}

// variantOrder says how early a type is tried: those that take few texts before those that take
// many, narrow before wide, String last. decimals is the place of Decimal and the floats.
func variantOrder(t *Type, decimals int) int {
	switch t.kind {
	case kindNullable, kindLowCardinality:
		return variantOrder(t.elems[0], decimals)
	case kindInt, kindUint:
		return 1
	case kindDecimal:
		return decimals
	case kindFloat, kindBFloat16:
		return decimals + 1
	case kindUUID, kindIPv4, kindIPv6, kindEnum:
		return 5
	case kindDate:
		return 6
	case kindDate32:
		return 7
	case kindDateTime:
		return 8
	case kindDateTime64:
		return 9
	case kindTime, kindTime64:
		return 10
	case kindArray, kindTuple, kindMap, kindQBit:
		return 11
	case kindJSON:
		return 12
	case kindFixedString:
		return 14
	case kindString:
		return 15
	}
	return 13
}

// kindSet is a set of kinds of JSON values.
type kindSet uint16

func kinds(k ...jsonread.Kind) (s kindSet) {
	for _, one := range k {
		s |= 1 << one
	}
	return s
}

func (s kindSet) has(k jsonread.Kind) bool { return s>>k&1 != 0 }

// naturalKinds is the kinds of JSON values that a type is for, as opposed to those it converts.
func naturalKinds(t *Type) kindSet {
	switch t.kind {
	case kindNullable, kindLowCardinality:
		return naturalKinds(t.elems[0])
	case kindInt, kindUint, kindDecimal, kindFloat, kindBFloat16:
		return kinds(jsonread.Number)
	case kindBool:
		return kinds(jsonread.True, jsonread.False)
	case kindArray, kindQBit:
		return kinds(jsonread.Array)
	case kindTuple:
		return kinds(jsonread.Array, jsonread.Object)
	case kindMap, kindJSON:
		return kinds(jsonread.Object)
	}
	return kinds(jsonread.String)
}

func (n *variant) rows() int { return len(n.which) }
func (n *variant) size() int {
	sum := len(n.which)
	for _, c := range n.elems {
		sum += c.size()
	}
	return sum
}
func (n *variant) reset() {
	n.which = n.which[:0]
	for _, c := range n.elems {
		c.reset()
	}
}

func (n *variant) mark(m []int) []int {
	m = append(m, len(n.which))
	for _, c := range n.elems {
		m = c.mark(m)
	}
	return m
}
func (n *variant) rollback(m []int) []int {
	n.which, m = n.which[:m[0]], m[1:]
	for _, c := range n.elems {
		m = c.rollback(m)
	}
	return m
}
func (n *variant) truncate(rows int) {
	n.which = n.which[:rows]
	for i, c := range n.elems {
		c.truncate(bytes.Count(n.which, []byte{byte(i)}))
	}
}

func (n *variant) appendJSON(v jsonread.Value) error {
	if v.Kind <= jsonread.Null {
		n.appendDefault()
		return nil
	}
	tries := n.plain
	if v.Kind == jsonread.Number && bytes.ContainsAny(v.Raw, ".eE") {
		tries = n.real
	}
	var lastErr error
	// First the types for which the value's kind is natural, then those that convert it.
	for _, natural := range [...]bool{true, false} {
		for _, i := range tries {
			c := n.elems[i]
			if n.takes[i].has(v.Kind) != natural {
				continue
			}
			n.marks = c.mark(n.marks[:0])
			err := c.appendJSON(v)
			if err == nil {
				n.which = append(n.which, byte(i))
				return nil
			}
			c.rollback(n.marks)
			lastErr = cmp.Or(lastErr, err)
		}
	}
	if len(n.elems) == 1 {
		return lastErr
	}
	return valueErrorf("%s fits none of the types of %s", show(v), shorten([]byte(n.name)))
}

func (n *variant) appendDefault() { n.which = append(n.which, noVariant) }

func (n *variant) appendWire(dst []byte) []byte {
	dst = append(dst, n.which...)
	for _, c := range n.elems {
		dst = c.appendWire(dst)
	}
	return dst
}

func (n *variant) readWire(src []byte, rows int, keep []byte) ([]byte, error) {
	if len(src) < rows {
		return nil, errTooShort("the discriminators of a Variant", rows, len(src))
	}
	which, src := src[:rows], src[rows:]
	var counts [noVariant + 1]int
	for _, w := range which {
		if int(w) >= len(n.elems) && w != noVariant {
			return nil, errors.New("a discriminator of a Variant is out of range")
		}
		counts[w]++
	}
	n.which = appendRows(n.which, which, 1, rows, keep)
	for i, c := range n.elems {
		var elemKeep []byte
		if counts[i] > len(src) {
			return nil, fmt.Errorf("%w: a Variant has more values than bytes", errCutWire)
		}
		if keep != nil {
			elemKeep = clearedBits(n.keeps[i], counts[i])
			n.keeps[i] = elemKeep
			selectVariant(elemKeep, which, byte(i), keep)
		}
		var err error
		if src, err = c.readWire(src, counts[i], elemKeep); err != nil {
			return nil, err
		}
	}
	return src, nil
}

// selectVariant sets the bits of those values of element i whose rows are kept.
func selectVariant(elemKeep, which []byte, i byte, keep []byte) {
	pos := 0
	for row, w := range which {
		if w != i {
			continue
		}
		if bit(keep, row) {
			elemKeep[pos>>3] |= 1 << (pos & 7)
		}
		pos++
	}
}

func (n *variant) prepare() error {
	for _, c := range n.elems {
		if err := c.prepare(); err != nil {
			return err
		}
	}
	return nil
}

func (n *variant) state(e *encoder) {
	e.uint64(basicDiscriminators)
	for _, c := range n.elems {
		c.state(e)
	}
}

func (n *variant) encode(e *encoder) {
	e.bytes(n.which)
	for _, c := range n.elems {
		c.encode(e)
	}
}
