package clickhouse

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// typeName is a column type taken apart: "Map(String, UInt8)" is Map with two arguments.
type typeName struct {
	name string
	args []string
}

func splitType(s string) (typeName, error) {
	s = strings.TrimSpace(s)
	open := strings.IndexByte(s, '(')
	if open < 0 {
		return typeName{name: s}, nil
	}
	if s[len(s)-1] != ')' {
		return typeName{}, fmt.Errorf("column type %q: missing )", s)
	}
	args, err := splitArgs(s[open+1 : len(s)-1])
	if err != nil {
		return typeName{}, fmt.Errorf("column type %q: %w", s, err)
	}
	return typeName{name: strings.TrimSpace(s[:open]), args: args}, nil
}

// splitArgs cuts at the commas that are not inside brackets or quotes.
func splitArgs(s string) ([]string, error) {
	var args []string
	depth, start := 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '(':
			depth++
		case ')':
			depth--
			if depth < 0 {
				return nil, fmt.Errorf("unexpected )")
			}
		case '\'', '`', '"':
			end := quotedEnd(s, i)
			if end < 0 {
				return nil, fmt.Errorf("unclosed %c", c)
			}
			i = end - 1
		case ',':
			if depth == 0 {
				args = append(args, strings.TrimSpace(s[start:i]))
				start = i + 1
			}
		}
	}
	if depth != 0 {
		return nil, fmt.Errorf("missing )")
	}
	if last := strings.TrimSpace(s[start:]); last != "" || len(args) > 0 {
		args = append(args, last)
	}
	return args, nil
}

// quotedEnd is the index after the quoted text that begins at s[at], or -1.
func quotedEnd(s string, at int) int {
	quote := s[at]
	for i := at + 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case quote:
			if i+1 < len(s) && s[i+1] == quote {
				i++
				continue
			}
			return i + 1
		}
	}
	return -1
}

// elementType takes the name from a tuple's element: "a UInt8" and "`a b` UInt8" are named, "UInt8" is not.
func elementType(s string) (name, typ string) {
	if s != "" && (s[0] == '`' || s[0] == '"') {
		if end := quotedEnd(s, 0); end > 0 {
			return unquote(s[:end]), strings.TrimSpace(s[end:])
		}
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ' ':
			return s[:i], strings.TrimSpace(s[i+1:])
		case '(', '\'':
			return "", s
		}
	}
	return "", s
}

const (
	maxDepth = 100      // levels of a type, and of types that are named within the data of others
	maxFixed = 0xFFFFFF // the longest FixedString of the engine
)

var errTooDeep = fmt.Errorf("column type: more than %d levels", maxDepth)

// fixedSizes are the types whose values have all the same size, with it.
var fixedSizes = map[string]int{
	"UInt8": 1, "UInt16": 2, "UInt32": 4, "UInt64": 8, "UInt128": 16, "UInt256": 32,
	"Int8": 1, "Int16": 2, "Int32": 4, "Int64": 8, "Int128": 16, "Int256": 32,
	"Float32": 4, "Float64": 8, "BFloat16": 2, "Bool": 1, "Nothing": 1,
	"Date": 2, "Date32": 4, "DateTime": 4, "DateTime32": 4, "DateTime64": 8, "Time": 4, "Time64": 8,
	"Decimal32": 4, "Decimal64": 8, "Decimal128": 16, "Decimal256": 32,
	"Enum8": 1, "Enum16": 2, "UUID": 16, "IPv4": 4, "IPv6": 16,
}

// aliases are types that are another type under a name of their own.
var aliases = map[string]string{
	"Point":           "Tuple(Float64, Float64)",
	"Ring":            "Array(Point)",
	"LineString":      "Array(Point)",
	"MultiLineString": "Array(LineString)",
	"Polygon":         "Array(Ring)",
	"MultiPolygon":    "Array(Polygon)",
	"Geometry":        "Variant(LineString, MultiLineString, MultiPolygon, Point, Polygon, Ring)",
}

// newLayout makes the layout of a column type.
func newLayout(s string) (layout, error) { return layoutWithin(s, maxDepth) }

// layoutWithin makes the layout of a type that may have so many levels.
func layoutWithin(s string, levels int) (layout, error) {
	if levels == 0 {
		return nil, errTooDeep
	}
	levels--
	t, err := splitType(s)
	if err != nil {
		return nil, err
	}
	if alias, ok := aliases[t.name]; ok {
		return layoutWithin(alias, levels)
	}
	if size, ok := fixedSizes[t.name]; ok {
		return fixed(size), nil
	}
	if strings.HasPrefix(t.name, "Interval") {
		return fixed(8), nil
	}
	number := func(i int) (int, error) {
		if i >= len(t.args) {
			return 0, fmt.Errorf("column type %q: argument %d is missing", s, i+1)
		}
		n, err := strconv.Atoi(t.args[i])
		if err != nil || n < 0 || n > maxFixed {
			return 0, fmt.Errorf("column type %q: argument %d is not a number from 0 to %d", s, i+1, maxFixed)
		}
		return n, nil
	}
	nested := func(want int) ([]layout, error) {
		if want >= 0 && len(t.args) != want {
			return nil, fmt.Errorf("column type %q: want %d arguments", s, want)
		}
		out := make([]layout, len(t.args))
		for i, a := range t.args {
			if out[i], err = layoutWithin(a, levels); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	switch t.name {
	case "String":
		return text{}, nil
	case "FixedString":
		n, err := number(0)
		return fixed(n), err
	case "Decimal":
		p, err := number(0)
		switch {
		case p <= 9:
			return fixed(4), err
		case p <= 18:
			return fixed(8), err
		case p <= 38:
			return fixed(16), err
		}
		return fixed(32), err
	case "QBit":
		n, err := number(1)
		if err != nil {
			return nil, err
		}
		size := fixedSizes[t.args[0]]
		return fixed(size * 8 * ((n + 7) / 8)), nil
	case "Nullable":
		in, err := nested(1)
		if err != nil {
			return nil, err
		}
		return nullable{in[0]}, nil
	case "Array":
		in, err := nested(1)
		if err != nil {
			return nil, err
		}
		return array{in[0]}, nil
	case "Map":
		in, err := nested(2)
		if err != nil {
			return nil, err
		}
		return array{tuple(in)}, nil
	case "LowCardinality":
		if len(t.args) != 1 {
			return nil, fmt.Errorf("column type %q: want 1 argument", s)
		}
		in := t.args[0]
		if n, err := splitType(in); err == nil && n.name == "Nullable" && len(n.args) == 1 {
			in = n.args[0] // the dictionary's first entry stands for NULL
		}
		dict, err := layoutWithin(in, levels)
		if err != nil {
			return nil, err
		}
		return lowCardinality{dict}, nil
	case "Tuple", "Nested":
		in := make(tuple, len(t.args))
		for i, a := range t.args {
			_, typ := elementType(a)
			if in[i], err = layoutWithin(typ, levels); err != nil {
				return nil, err
			}
		}
		if t.name == "Nested" {
			return array{in}, nil
		}
		return in, nil
	case "SimpleAggregateFunction":
		if len(t.args) < 2 {
			return nil, fmt.Errorf("column type %q: want 2 arguments", s)
		}
		return layoutWithin(t.args[1], levels)
	case "Variant":
		types := slices.Clone(t.args)
		slices.Sort(types) // the engine's order, whatever the client wrote
		t.args = types
		in, err := nested(-1)
		return &variant{of: in}, err
	case "Dynamic":
		return &dynamic{}, nil
	case "JSON":
		return newJSONLayout(t.args, levels)
	}
	return nil, fmt.Errorf("column type %q cannot pass through this server", s)
}
