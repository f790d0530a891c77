package native

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"sluice/libs/jsonread"
)

// dynamic is JSON text, one document a row, until a block is written. prepare then finds each row's
// type, and the block gets Native's flattened form: the types, a number for each row, a column for each type.
type dynamic struct {
	text

	types   map[string]*dynamicType // all that have ever been seen by this column
	used    []*dynamicType          // those of the block, in the order of their names
	which   []*dynamicType          // of each row, nil = NULL
	literal []byte                  // scratch
	out     []byte                  // scratch
}

type dynamicType struct {
	name   string
	values node
	number int // in used
}

// flattenedDynamic is the version of Dynamic in Native that lists types instead of a shared variant.
const flattenedDynamic = 3

// maxDynamicTypes bounds the types that a column remembers from block to block.
const maxDynamicTypes = 1000

func newDynamic() *dynamic { return &dynamic{types: map[string]*dynamicType{}} }

func (n *dynamic) appendDefault() { n.text.append([]byte("null")) }

func (n *dynamic) appendJSON(v jsonread.Value) error {
	switch {
	case v.Kind <= jsonread.Null:
		n.appendDefault()
		return nil
	case v.Kind != jsonread.String:
		n.text.append(v.Raw)
		return nil
	}
	n.literal = append(n.literal[:0], '"')
	if v.Escaped || isPlainText(v.Raw) {
		n.literal = append(n.literal, v.Raw...)
	} else {
		// Not from a JSON document: a Kafka key or header.
		quoted, err := json.Marshal(string(v.Raw))
		if err != nil {
			return valueErrorf("%s is not a text: %v", show(v), err)
		}
		n.literal = append(n.literal, quoted[1:len(quoted)-1]...)
	}
	n.text.append(append(n.literal, '"'))
	return nil
}

// isPlainText tells whether b can stand between quotes as it is.
func isPlainText(b []byte) bool {
	for _, c := range b {
		if c < ' ' || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.Valid(b)
}

func (n *dynamic) readWire(src []byte, rows int, keep []byte) ([]byte, error) {
	before := len(n.buf)
	rest, err := n.text.readWire(src, rows, keep)
	if err != nil {
		return nil, err
	}
	for pos := before; pos < len(n.buf); {
		var doc []byte
		doc, pos = stringAt(n.buf, pos)
		// Leading white space would hide the kind of the value from literalValue.
		if len(doc) == 0 || doc[0] <= ' ' || !json.Valid(doc) {
			return nil, errors.New("a value of Dynamic is not JSON")
		}
	}
	return rest, nil
}

// literalValue is the value of a JSON text.
func literalValue(b []byte) jsonread.Value {
	switch b[0] {
	case '"':
		b = b[1 : len(b)-1]
		return jsonread.Value{Kind: jsonread.String, Raw: b, Escaped: bytes.IndexByte(b, '\\') >= 0}
	case '{':
		return jsonread.Value{Kind: jsonread.Object, Raw: b}
	case '[':
		return jsonread.Value{Kind: jsonread.Array, Raw: b}
	case 'n':
		return jsonread.Value{Kind: jsonread.Null, Raw: b}
	case 't':
		return jsonread.Value{Kind: jsonread.True, Raw: b}
	case 'f':
		return jsonread.Value{Kind: jsonread.False, Raw: b}
	}
	return jsonread.Value{Kind: jsonread.Number, Raw: b}
}

// prepare sorts the rows into columns of their types.
func (n *dynamic) prepare() error {
	if len(n.types) > maxDynamicTypes {
		clear(n.types)
	}
	for _, t := range n.types {
		t.values.reset()
	}
	n.used, n.which = n.used[:0], n.which[:0]
	for pos, row := 0, 0; row < n.n; row++ {
		var doc []byte
		doc, pos = stringAt(n.buf, pos)
		v := literalValue(doc)
		if v.Kind == jsonread.Null {
			n.which = append(n.which, nil)
			continue
		}
		t, err := n.typeNamed(inferType(v, 0))
		if err != nil {
			return err
		}
		if t.values.rows() == 0 {
			n.used = append(n.used, t)
		}
		if err = t.values.appendJSON(v); err != nil {
			return fmt.Errorf("row %d of a Dynamic column as %s: %w", row, t.name, err)
		}
		n.which = append(n.which, t)
	}
	// The order of first occurrence would do, but equal blocks should not depend on the order of types.
	slices.SortFunc(n.used, func(a, b *dynamicType) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	for i, t := range n.used {
		t.number = i
		if err := t.values.prepare(); err != nil {
			return err
		}
	}
	return nil
}

func (n *dynamic) typeNamed(name string) (*dynamicType, error) {
	if t := n.types[name]; t != nil {
		return t, nil
	}
	parsed, err := ParseType(name)
	if err != nil {
		return nil, err
	}
	values, err := newNode(parsed)
	if err != nil {
		return nil, err
	}
	t := &dynamicType{name: name, values: values}
	n.types[name] = t
	return t, nil
}

func (n *dynamic) state(e *encoder) {
	e.uint64(flattenedDynamic)
	e.uvarint(len(n.used))
	for _, t := range n.used {
		e.string(t.name)
	}
	for _, t := range n.used {
		t.values.state(e)
	}
}

func (n *dynamic) encode(e *encoder) {
	n.out = n.out[:0]
	for _, t := range n.which {
		number := len(n.used) // NULL
		if t != nil {
			number = t.number
		}
		switch {
		case len(n.used) <= 0xff:
			n.out = append(n.out, byte(number))
		case len(n.used) <= 0xffff:
			n.out = binary.LittleEndian.AppendUint16(n.out, uint16(number))
		default:
			n.out = binary.LittleEndian.AppendUint32(n.out, uint32(number))
		}
	}
	e.bytes(n.out)
	for _, t := range n.used {
		t.values.encode(e)
	}
}
