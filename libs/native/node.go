package native

import (
	"errors"
	"fmt"

	"sluice/libs/jsonread"
)

// node is a column or a part of one: the tree of nodes has the shape of the type.
//
// Invariant: every node takes at least one byte of wire per row. So rows ≤ len(src) bounds every
// allocation that AppendFromWire makes before it has seen all of its input.
type node interface {
	rows() int
	size() int
	reset()

	// mark appends the node's lengths to m; rollback goes back to them and returns what follows
	// them. truncate cuts to the first rows rows without a mark.
	mark(m []int) []int
	rollback(m []int) []int
	truncate(rows int)

	// appendJSON appends v. After an error the node is in any state: the caller rolls back.
	appendJSON(v jsonread.Value) error
	// appendDefault appends the value that stands behind a NULL or an absent value.
	appendDefault()

	// appendWire appends the node to dst; readWire appends the kept ones of rows rows at the begin
	// of src and returns the rest of src. After an error the caller rolls back.
	appendWire(dst []byte) []byte
	readWire(src []byte, rows int, keep []byte) (rest []byte, err error)

	// prepare does what can fail before a block is written, state writes the prefixes that Native
	// wants before the data of the whole column, encode the data.
	prepare() error
	state(e *encoder)
	encode(e *encoder)

	// decodeState and decode read what state and encode write, as a server sends it. The node is empty before, and
	// after an error in any state.
	decodeState(d *decoder) error
	decode(d *decoder, rows int) error

	// hash appends a hash of each row: 0 for the type's default value, and for nothing else.
	hash(dst []uint64) []uint64
}

var errCutWire = errors.New("column is cut off")

// newNode makes an empty node of type t.
func newNode(t *Type) (node, error) {
	switch t.kind {
	case kindString:
		return &text{}, nil
	case kindJSON:
		return &object{}, nil
	case kindDynamic:
		return newDynamic(), nil
	case kindVariant:
		return newVariant(t)
	case kindTuple:
		if len(t.elems) > 0 {
			return newTuple(t)
		}
	case kindNullable, kindLowCardinality, kindArray:
		inner, err := newNode(t.elems[0])
		if err != nil {
			return nil, err
		}
		switch t.kind {
		case kindNullable:
			return &nullable{inner: inner}, nil
		case kindArray:
			return &array{inner: inner}, nil
		}
		return newLowCardinality(inner)
	case kindMap:
		pair, err := newTuple(&Type{kind: kindTuple, elems: t.elems})
		if err != nil {
			return nil, err
		}
		return &array{inner: pair, pair: pair}, nil
	case kindQBit:
		return newQBit(t)
	}
	return newFixed(t)
}

func errTooShort(what string, want, have int) error {
	return fmt.Errorf("%w: %s takes %d bytes, %d are left", errCutWire, what, want, have)
}
