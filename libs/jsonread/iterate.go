package jsonread

import "errors"

var (
	errNotArray  = errors.New("not an array")
	errNotObject = errors.New("not an object")
	errCut       = errors.New("the value ends too early")
)

// Elements calls fn with each element of raw, the Raw of an Array that Read has returned, in order.
// It stops at the first error of fn and returns it. The values share raw's memory.
func Elements(raw []byte, fn func(Value) error) error {
	if len(raw) < 2 || raw[0] != '[' {
		return errNotArray
	}
	i := skipSpace(raw, 1)
	for i < len(raw) && raw[i] != ']' {
		v, end := valueAt(raw, i)
		if end < 0 {
			return errCut
		}
		if err := fn(v); err != nil {
			return err
		}
		if i = skipSpace(raw, end); i < len(raw) && raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	if i >= len(raw) {
		return errCut
	}
	return nil
}

// Fields calls fn with each field of raw, the Raw of an Object that Read has returned, in the
// document's order, fields that occur twice as often as they occur. key is the unescaped name,
// valid until fn returns. It stops at the first error of fn and returns it.
func Fields(raw []byte, fn func(key []byte, v Value) error) error {
	if len(raw) < 2 || raw[0] != '{' {
		return errNotObject
	}
	var unescaped []byte
	i := skipSpace(raw, 1)
	for i < len(raw) && raw[i] != '}' {
		name, end := valueAt(raw, i)
		if end < 0 || name.Kind != String {
			return errCut
		}
		if i = skipSpace(raw, end); i >= len(raw) || raw[i] != ':' {
			return errCut
		}
		v, end := valueAt(raw, skipSpace(raw, i+1))
		if end < 0 {
			return errCut
		}
		key := name.Raw
		if name.Escaped {
			unescaped = appendUnescaped(unescaped[:0], name.Raw)
			key = unescaped
		}
		if err := fn(key, v); err != nil {
			return err
		}
		if i = skipSpace(raw, end); i < len(raw) && raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	if i >= len(raw) {
		return errCut
	}
	return nil
}

// valueAt returns the value that begins at b[i] and the index after it; -1 when b ends within it.
// Invariant: end > i, so that a walk over bytes that are not JSON ends all the same.
func valueAt(b []byte, i int) (v Value, end int) {
	if i >= len(b) {
		return Value{}, -1
	}
	switch b[i] {
	case '"':
		end, escaped, bad := scanString(b, i+1)
		if bad != fine {
			return Value{}, -1
		}
		return Value{Kind: String, Escaped: escaped, Raw: b[i+1 : end : end]}, end + 1
	case '{', '[':
		if end = skipContainer(b, i); end < 0 {
			return Value{}, -1
		}
		kind := Array
		if b[i] == '{' {
			kind = Object
		}
		return Value{Kind: kind, Raw: b[i:end:end]}, end
	}
	for end = i + 1; end < len(b) && !endsScalar(b[end]); end++ {
	}
	kind := Number
	switch b[i] {
	case 'n':
		kind = Null
	case 't':
		kind = True
	case 'f':
		kind = False
	}
	return Value{Kind: kind, Raw: b[i:end:end]}, end
}

func endsScalar(c byte) bool { return c == ',' || c == ']' || c == '}' || c == ':' || c <= ' ' }

// skipContainer returns the index after the array or object that begins at b[i]. Only brackets
// and strings matter: the reader has checked that they match.
func skipContainer(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			var bad fault
			if i, _, bad = scanString(b, i+1); bad != fine {
				return -1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return -1
}

// skipSpace returns the index of the first byte from b[i] on that is not white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}
