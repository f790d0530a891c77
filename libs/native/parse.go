package native

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxTypeDepth bounds the nesting of a type. ClickHouse's own parser allows some hundreds.
const maxTypeDepth = 64

// parser reads the type grammar of ClickHouse from left to right.
type parser struct {
	src string
	pos int
}

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s", p.pos, fmt.Sprintf(format, args...))
}

func (p *parser) space() {
	for p.pos < len(p.src) && (p.src[p.pos] == ' ' || p.src[p.pos] == '\n' || p.src[p.pos] == '\t') {
		p.pos++
	}
}

// accept skips white space and the byte c when it is next.
func (p *parser) accept(c byte) bool {
	p.space()
	if p.pos < len(p.src) && p.src[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expect(c byte) error {
	if !p.accept(c) {
		return p.fail("%q is missing", c)
	}
	return nil
}

func (p *parser) ident() string {
	p.space()
	start := p.pos
	for p.pos < len(p.src) {
		c := p.src[p.pos]
		if c != '_' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			break
		}
		p.pos++
	}
	return p.src[start:p.pos]
}

func (p *parser) integer() (int, error) {
	p.space()
	start := p.pos
	if p.pos < len(p.src) && p.src[p.pos] == '-' {
		p.pos++
	}
	for p.pos < len(p.src) && p.src[p.pos] >= '0' && p.src[p.pos] <= '9' {
		p.pos++
	}
	n, err := strconv.Atoi(p.src[start:p.pos])
	if err != nil {
		return 0, p.fail("a number is missing")
	}
	return n, nil
}

// integers reads "(n, m, …)".
func (p *parser) integers(count int) ([]int, error) {
	if err := p.expect('('); err != nil {
		return nil, err
	}
	var out []int
	for i := range count {
		if i > 0 {
			if err := p.expect(','); err != nil {
				return nil, err
			}
		}
		n, err := p.integer()
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, p.expect(')')
}

// quoted reads a text between quotes (', ` or "), with ClickHouse's escapes.
func (p *parser) quoted() (string, error) {
	p.space()
	if p.pos >= len(p.src) || !strings.ContainsRune("'`\"", rune(p.src[p.pos])) {
		return "", p.fail("a quoted text is missing")
	}
	quote := p.src[p.pos]
	var b []byte
	for i := p.pos + 1; i < len(p.src); i++ {
		c := p.src[i]
		switch {
		case c == '\\' && i+1 < len(p.src):
			i++
			if p.src[i] == 'x' && i+2 < len(p.src) {
				if n, err := strconv.ParseUint(p.src[i+1:i+3], 16, 8); err == nil {
					b = append(b, byte(n))
					i += 2
					continue
				}
			}
			b = append(b, unescape(p.src[i]))
		case c == quote && i+1 < len(p.src) && p.src[i+1] == quote:
			b = append(b, c)
			i++
		case c == quote:
			p.pos = i + 1
			return string(b), nil
		default:
			b = append(b, c)
		}
	}
	return "", p.fail("a quote is not closed")
}

func unescape(c byte) byte {
	if i := strings.IndexByte("abefnrtv0", c); i >= 0 {
		return "\a\b\x1b\f\n\r\t\v\x00"[i]
	}
	return c
}

// skipArguments skips "(…)" when it is next. Quotes are respected.
func (p *parser) skipArguments() error {
	if !p.accept('(') {
		return nil
	}
	for depth := 1; depth > 0; {
		if p.pos >= len(p.src) {
			return p.fail("')' is missing")
		}
		switch p.src[p.pos] {
		case '(':
			depth++
		case ')':
			depth--
		case '\'', '`', '"':
			if _, err := p.quoted(); err != nil {
				return err
			}
			continue
		}
		p.pos++
	}
	return nil
}

func (p *parser) parse(depth int) (*Type, error) {
	if depth > maxTypeDepth {
		return nil, p.fail("nested deeper than %d", maxTypeDepth)
	}
	p.space()
	start := p.pos
	name := p.ident()
	if name == "" {
		return nil, p.fail("a type is missing")
	}
	t, err := p.named(name, depth)
	if err != nil {
		return nil, err
	}
	t.name = p.src[start:p.pos]
	return t, nil
}

// named reads the rest of the type that begins with name.
func (p *parser) named(name string, depth int) (*Type, error) {
	if t, ok := plainTypes[name]; ok {
		return &t, nil
	}
	if expanded, ok := geoTypes[name]; ok {
		return ParseType(expanded)
	}
	switch name {
	case "DateTime", "DateTime32":
		t := &Type{kind: kindDateTime, width: 4, loc: time.UTC}
		if !p.accept('(') {
			return t, nil
		}
		return t, p.zone(t)
	case "DateTime64":
		t := &Type{kind: kindDateTime64, width: 8, precision: 3, loc: time.UTC}
		return t, p.subseconds(t)
	case "Time64":
		t := &Type{kind: kindTime64, width: 8, precision: 3}
		return t, p.subseconds(t)
	case "FixedString":
		n, err := p.integers(1)
		if err == nil && (n[0] < 1 || n[0] > 0xffffff) {
			err = p.fail("length of a FixedString is 1 to 16777215")
		}
		if err != nil {
			return nil, err
		}
		return &Type{kind: kindFixedString, width: n[0]}, nil
	case "Decimal", "Decimal32", "Decimal64", "Decimal128", "Decimal256":
		return p.decimal(name)
	case "Enum", "Enum8", "Enum16":
		return p.enumeration(name)
	case "JSON", "Object":
		return &Type{kind: kindJSON}, p.skipArguments()
	case "Dynamic":
		return &Type{kind: kindDynamic}, p.skipArguments()
	case "QBit":
		return p.qbit()
	case "Tuple":
		return p.tuple(depth)
	case "Nested":
		t, err := p.tuple(depth)
		if err != nil {
			return nil, err
		}
		t.name = "Tuple"
		return &Type{kind: kindArray, elems: []*Type{t}}, nil
	case "Array", "Nullable", "LowCardinality", "Map", "Variant":
		return p.composite(name, depth)
	case "SimpleAggregateFunction":
		return p.simpleAggregate(depth)
	case "AggregateFunction":
		return nil, p.fail("AggregateFunction holds states that only ClickHouse can compute; " +
			"write to a table of plain types and aggregate in a materialized view")
	}
	return nil, p.fail("type %s is not known", name)
}
