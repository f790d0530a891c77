package native

import (
	"fmt"
	"time"
	// The zones that types name must be known wherever a binary runs, also in an empty container.
	_ "time/tzdata"
)

// Type is a column type of ClickHouse. It is immutable.
type Type struct {
	name string // as ParseType was given it
	kind kind

	elems []*Type  // Array, Nullable, LowCardinality: one; Map: key, value; Tuple, Variant: all
	names []string // named Tuple: the names of elems

	width     int            // bytes of a value of fixed width; FixedString: N
	precision int            // digits: Decimal, of a second: DateTime64, Time64; QBit: dimension
	scale     int            // Decimal
	loc       *time.Location // DateTime, DateTime64
	enum      *enumeration   // Enum8, Enum16
}

type kind uint8

const (
	kindInt kind = iota + 1
	kindUint
	kindFloat
	kindBFloat16
	kindBool
	kindString
	kindFixedString
	kindDate
	kindDate32
	kindDateTime
	kindDateTime64
	kindTime
	kindTime64
	kindDecimal
	kindUUID
	kindIPv4
	kindIPv6
	kindEnum
	kindArray
	kindTuple
	kindMap
	kindNullable
	kindLowCardinality
	kindNothing
	kindVariant
	kindDynamic
	kindJSON
	kindQBit
)

// ParseType reads a type as system.columns prints it.
func ParseType(s string) (*Type, error) {
	p := parser{src: s}
	t, err := p.parse(0)
	if err == nil {
		p.space()
		if p.pos < len(p.src) {
			err = p.fail("unexpected text")
		}
	}
	if err == nil {
		_, err = newNode(t) // what has no column is no type: NewColumn cannot fail
	}
	if err != nil {
		return nil, fmt.Errorf("type %q: %w", s, err)
	}
	return t, nil
}

// String is the type as ClickHouse spells it.
func (t *Type) String() string { return t.name }

// Nullable tells whether a value of the type can be NULL.
func (t *Type) Nullable() bool {
	switch t.kind {
	case kindNullable, kindVariant, kindDynamic:
		return true
	case kindLowCardinality:
		return t.elems[0].Nullable()
	}
	return false
}

// bare is the type without LowCardinality and Nullable around it.
func (t *Type) bare() *Type {
	for t.kind == kindNullable || t.kind == kindLowCardinality {
		t = t.elems[0]
	}
	return t
}
