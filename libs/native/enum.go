package native

import (
	"fmt"
	"strconv"

	"sluice/libs/jsonread"
)

// enumeration is the names of an Enum and their values.
type enumeration struct {
	values map[string]int16
	known  map[int16]bool
	lowest int16 // ClickHouse's default value of the type
}

// enumeration reads "('name' = value, …)". A value left out is one more than the one before.
func (p *parser) enumeration(name string) (*Type, error) {
	if err := p.expect('('); err != nil {
		return nil, err
	}
	e := &enumeration{values: map[string]int16{}, known: map[int16]bool{}}
	wide := name == "Enum16"
	for next := 1; len(e.values) == 0 || p.accept(','); next++ {
		text, err := p.quoted()
		if err != nil {
			return nil, err
		}
		if p.accept('=') {
			if next, err = p.integer(); err != nil {
				return nil, err
			}
		}
		if next < -1<<15 || next > 1<<15-1 {
			return nil, p.fail("enum value %d is out of range", next)
		}
		v := int16(next)
		if _, dup := e.values[text]; dup || e.known[v] {
			return nil, p.fail("%s occurs twice", strconv.Quote(text)+" = "+fmt.Sprint(v))
		}
		if len(e.values) == 0 || v < e.lowest {
			e.lowest = v
		}
		if v < -128 || v > 127 {
			if name == "Enum8" {
				return nil, p.fail("enum value %d is out of range", v)
			}
			wide = true
		}
		e.values[text], e.known[v] = v, true
	}
	t := &Type{kind: kindEnum, width: 1, enum: e}
	if wide {
		t.width = 2
	}
	return t, p.expect(')')
}

// parse takes a name or a number, a name first.
func (e *enumeration) parse(v jsonread.Value, typeName string) (int16, error) {
	if v.Kind == jsonread.String {
		text := v.Raw
		if v.Escaped {
			var buf [64]byte
			text = v.AppendText(buf[:0])
		}
		if n, ok := e.values[string(text)]; ok {
			return n, nil
		}
	}
	if v.Kind == jsonread.Number || v.Kind == jsonread.String {
		if n, neg, res := parseUint64(v.Raw, 0); res == exact && n <= 1<<15 {
			signed := int64(n)
			if neg {
				signed = -signed
			}
			if signed < 1<<15 && e.known[int16(signed)] {
				return int16(signed), nil
			}
		}
	}
	return 0, valueErrorf("%s is no value of %s", show(v), shorten([]byte(typeName)))
}
