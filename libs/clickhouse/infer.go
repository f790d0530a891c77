package clickhouse

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
)

// InferColumns makes columns from a sample of JSON events: one for each top-level field, in the order in which
// the fields are first met. A field that is missing or null in some event becomes Nullable, unless it is
// required; an Array, which cannot be that, has an empty one as its DEFAULT then. One that has values of several kinds becomes
// a String, which takes them all. Samples that
// are no JSON objects are passed over, as the pipeline will.
func InferColumns(samples [][]byte, required ...string) ([]Column, error) {
	fields := map[string]*field{}
	var order []string
	events := 0
	for _, sample := range samples {
		names, values, err := object(sample)
		if err != nil {
			continue
		}
		events++
		for i, name := range names {
			f := fields[name]
			if f == nil {
				f = &field{}
				fields[name] = f
				order = append(order, name)
			}
			f.see(values[i])
		}
	}
	if events == 0 {
		return nil, &ConfigError{"sink.clickhouse.create_table",
			errors.New("no JSON object in the sample of the topic to make columns from: declare columns with their types, or produce some events first")}
	}
	columns := make([]Column, 0, len(order))
	for _, name := range order {
		f := fields[name]
		// A key such as user.id needs its whole object, but not as a column that cannot be NULL.
		nullable := (f.seen < events || f.null) && !slices.Contains(required, name)
		columns = append(columns, f.column(name, nullable))
	}
	return columns, nil
}

// field is what the samples have shown of one field.
type field struct {
	seen int
	null bool
	kind kind
}

// kind is a type with its inner one, for arrays.
type kind struct {
	name string // "" unknown yet: only null or an empty array so far
	elem *kind  // of arrays
	null bool   // of elements: some are null
}

func (f *field) see(value json.RawMessage) {
	f.seen++
	k := kindOf(value)
	if k.name == "null" {
		f.null = true
		return
	}
	f.kind = join(f.kind, k)
}

func (f *field) column(name string, nullable bool) Column {
	t := f.kind.String()
	switch {
	case nullable && f.kind.elem != nil: // an Array cannot be Nullable
		return Column{Name: name, Type: t, Default: "[]"}
	case nullable:
		return Column{Name: name, Type: "Nullable(" + t + ")"}
	}
	return Column{Name: name, Type: t}
}

func (k kind) String() string {
	switch {
	case k.name == "":
		return "String"
	case k.name == kindNatural:
		return kindInt
	case k.elem == nil:
		return k.name
	case k.elem.null && k.elem.elem == nil:
		return "Array(Nullable(" + k.elem.String() + "))"
	default:
		return "Array(" + k.elem.String() + ")"
	}
}

const (
	// kindNatural is an Int64 that has not been negative yet: together with larger ones it makes UInt64.
	kindNatural = "natural"

	kindInt    = "Int64"
	kindUInt   = "UInt64"
	kindFloat  = "Float64"
	kindBool   = "Bool"
	kindTime   = "DateTime64(3, 'UTC')"
	kindString = "String"
	kindArray  = "Array"
)

// join is the narrowest kind that takes both.
func join(a, b kind) kind {
	switch {
	case a.name == "":
		return kind{b.name, b.elem, a.null || b.null}
	case b.name == "":
		return kind{a.name, a.elem, a.null || b.null}
	case a.name == kindArray && b.name == kindArray:
		elem := join(*a.elem, *b.elem)
		return kind{name: kindArray, elem: &elem, null: a.null || b.null}
	case a.name == b.name:
		return kind{name: a.name, null: a.null || b.null}
	}
	pair := func(x, y string) bool { return a.name == x && b.name == y || a.name == y && b.name == x }
	out := kind{name: kindString, null: a.null || b.null}
	switch {
	case pair(kindNatural, kindInt):
		out.name = kindInt
	case pair(kindNatural, kindUInt):
		out.name = kindUInt
	case pair(kindInt, kindFloat), pair(kindUInt, kindFloat), pair(kindNatural, kindFloat):
		out.name = kindFloat
	case pair(kindInt, kindUInt):
		// Negative numbers together with some beyond 2^63: neither 64-bit type takes both, exactly.
		out.name = "Int128"
	case pair("Int128", kindInt), pair("Int128", kindUInt), pair("Int128", kindNatural):
		out.name = "Int128"
	case pair("Int128", kindFloat):
		out.name = kindFloat
	}
	return out
}

func kindOf(value json.RawMessage) kind {
	text := string(bytes.TrimSpace(value))
	switch text[0] {
	case 'n':
		return kind{name: "null"}
	case 't', 'f':
		return kind{name: kindBool}
	case '"':
		var s string
		if json.Unmarshal(value, &s) == nil && isTime(s) {
			return kind{name: kindTime}
		}
		return kind{name: kindString}
	case '{':
		return kind{name: kindString}
	case '[':
		var elems []json.RawMessage
		if json.Unmarshal(value, &elems) != nil {
			return kind{name: kindString}
		}
		elem := kind{}
		for _, e := range elems {
			if k := kindOf(e); k.name == "null" {
				elem.null = true
			} else {
				elem = join(elem, k)
			}
		}
		return kind{name: kindArray, elem: &elem}
	}
	return number(text)
}

func number(text string) kind {
	if strings.ContainsAny(text, ".eE") {
		return kind{name: kindFloat}
	}
	n, ok := new(big.Int).SetString(text, 10)
	switch {
	case !ok:
		return kind{name: kindString}
	case n.IsInt64() && n.Sign() >= 0:
		return kind{name: kindNatural}
	case n.IsInt64():
		return kind{name: kindInt}
	case n.IsUint64():
		return kind{name: kindUInt}
	case n.BitLen() < 128:
		return kind{name: "Int128"}
	default:
		return kind{name: kindString} // its literal text, exactly
	}
}

var timeShape = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,3})?(Z|[+-]\d{2}:\d{2})?$`)

// isTime knows ISO 8601 times to the millisecond; a finer one stays a String, so that nothing is cut off.
func isTime(s string) bool {
	if !timeShape.MatchString(s) {
		return false
	}
	_, err := time.Parse("2006-01-02T15:04:05", strings.Replace(s[:19], " ", "T", 1))
	return err == nil && s >= "1900" && s < "2300"
}

// object reads the fields of a JSON object in their order.
func object(doc []byte) (names []string, values []json.RawMessage, err error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, nil, errors.New("not an object")
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, nil, err
		}
		names = append(names, t.(string))
		values = append(values, value)
	}
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("something follows the object")
	}
	return names, values, nil
}
