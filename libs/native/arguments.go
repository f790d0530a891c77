package native

import (
	"slices"
	"strings"
	"time"
)

// zone reads "'Europe/Berlin')".
func (p *parser) zone(t *Type) error {
	name, err := p.quoted()
	if err != nil {
		return err
	}
	if t.loc, err = time.LoadLocation(name); err != nil {
		return p.fail("time zone %q is not known", name)
	}
	return p.expect(')')
}

// subseconds reads the arguments of DateTime64 and Time64: "", "(P)" or "(P, 'zone')".
func (p *parser) subseconds(t *Type) error {
	if !p.accept('(') {
		return nil
	}
	var err error
	if t.precision, err = p.integer(); err != nil {
		return err
	}
	if t.precision < 0 || t.precision > 9 {
		return p.fail("precision of a second is 0 to 9")
	}
	if t.kind == kindDateTime64 && p.accept(',') {
		return p.zone(t)
	}
	return p.expect(')')
}

func (p *parser) decimal(name string) (*Type, error) {
	t := &Type{kind: kindDecimal}
	digits := map[string]int{"Decimal32": 9, "Decimal64": 18, "Decimal128": 38, "Decimal256": 76}
	count := 1
	if name == "Decimal" {
		count = 2
	}
	n, err := p.integers(count)
	if err != nil {
		return nil, err
	}
	t.precision, t.scale = digits[name], n[0]
	if name == "Decimal" {
		t.precision, t.scale = n[0], n[1]
	}
	if t.precision < 1 || t.precision > 76 || t.scale < 0 || t.scale > t.precision {
		return nil, p.fail("Decimal(%d, %d) is out of range", t.precision, t.scale)
	}
	switch {
	case t.precision <= 9:
		t.width = 4
	case t.precision <= 18:
		t.width = 8
	case t.precision <= 38:
		t.width = 16
	default:
		t.width = 32
	}
	return t, nil
}

func (p *parser) qbit() (*Type, error) {
	if err := p.expect('('); err != nil {
		return nil, err
	}
	elem, err := p.parse(maxTypeDepth)
	if err != nil {
		return nil, err
	}
	if elem.kind != kindFloat && elem.kind != kindBFloat16 {
		return nil, p.fail("a QBit is of BFloat16, Float32 or Float64")
	}
	if err = p.expect(','); err != nil {
		return nil, err
	}
	n, err := p.integer()
	if err != nil {
		return nil, err
	}
	if n < 1 || n > 1<<20 {
		return nil, p.fail("dimension %d of a QBit is out of range", n)
	}
	return &Type{kind: kindQBit, elems: []*Type{elem}, precision: n, width: n * elem.width}, p.expect(')')
}

// tuple reads "(T, …)" or "(name T, …)".
func (p *parser) tuple(depth int) (*Type, error) {
	t := &Type{kind: kindTuple}
	if err := p.expect('('); err != nil {
		return nil, err
	}
	if p.accept(')') {
		return &Type{kind: kindTuple, width: 1}, nil
	}
	for {
		name, err := p.elementName()
		if err != nil {
			return nil, err
		}
		if name != "" {
			t.names = append(t.names, name)
		}
		elem, err := p.parse(depth + 1)
		if err != nil {
			return nil, err
		}
		t.elems = append(t.elems, elem)
		if !p.accept(',') {
			break
		}
	}
	if t.names != nil && len(t.names) != len(t.elems) {
		return nil, p.fail("either all elements of a Tuple have a name or none")
	}
	return t, p.expect(')')
}

// elementName reads the name of a tuple's element; "" when a type comes right away.
func (p *parser) elementName() (string, error) {
	p.space()
	if p.pos < len(p.src) && (p.src[p.pos] == '`' || p.src[p.pos] == '"') {
		return p.quoted()
	}
	start := p.pos
	name := p.ident()
	p.space()
	if p.pos >= len(p.src) || strings.IndexByte("(,)", p.src[p.pos]) >= 0 {
		p.pos = start
		return "", nil
	}
	return name, nil
}

func (p *parser) composite(name string, depth int) (*Type, error) {
	if err := p.expect('('); err != nil {
		return nil, err
	}
	var elems []*Type
	for len(elems) == 0 || p.accept(',') {
		elem, err := p.parse(depth + 1)
		if err != nil {
			return nil, err
		}
		elems = append(elems, elem)
	}
	if err := p.expect(')'); err != nil {
		return nil, err
	}
	t := &Type{elems: elems}
	switch {
	case name == "Variant" && len(elems) < 255:
		t.kind = kindVariant
		// The discriminators number the types in the order of their names.
		slices.SortFunc(t.elems, func(a, b *Type) int { return strings.Compare(a.name, b.name) })
	case name == "Map" && len(elems) == 2:
		t.kind = kindMap
	case name == "Array" && len(elems) == 1:
		t.kind = kindArray
	case name == "Nullable" && len(elems) == 1:
		t.kind = kindNullable
	case name == "LowCardinality" && len(elems) == 1:
		t.kind = kindLowCardinality
		inner := elems[0]
		if inner.kind == kindNullable {
			inner = inner.elems[0]
		}
		if inner.width == 0 && inner.kind != kindString || inner.kind == kindTuple {
			return nil, p.fail("LowCardinality(%s) does not exist", elems[0].name)
		}
	default:
		return nil, p.fail("%s has %d arguments", name, len(elems))
	}
	return t, nil
}

// simpleAggregate reads "(function, T)": the column is a plain T.
func (p *parser) simpleAggregate(depth int) (*Type, error) {
	if err := p.expect('('); err != nil {
		return nil, err
	}
	p.ident()
	if err := p.skipArguments(); err != nil {
		return nil, err
	}
	if err := p.expect(','); err != nil {
		return nil, err
	}
	t, err := p.parse(depth + 1)
	if err != nil {
		return nil, err
	}
	return t, p.expect(')')
}
