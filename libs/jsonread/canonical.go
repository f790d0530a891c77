package jsonread

import (
	"bytes"
	"slices"
)

// The canonical form of a value is a tag, the value's bytes, and an end mark. It is self-delimiting,
// so the concatenation of several is unambiguous too. UTF-8 has no byte 0xff and digits are ASCII:
// the end mark cannot occur inside.
const (
	tagMissing  = 'm'
	tagNull     = 'n'
	tagFalse    = 'f'
	tagTrue     = 't'
	tagPositive = '+'
	tagNegative = '-'
	tagString   = 's'
	tagArray    = 'a'
	tagObject   = 'o'
	endMark     = 0xff
)

// AppendCanonical appends bytes that are equal for two values exactly when the values are: of the
// same kind, and
//
//   - numbers equal as exact decimals: 1, 1.0, 1e0 and 10e-1 are one number, as are 0 and -0, and
//     9007199254740993 is not 9007199254740992. It takes time in proportion to the literal's length,
//     whatever its exponent;
//   - strings equal after replacing escape sequences;
//   - arrays equal element by element;
//   - objects equal field by field, in any order. Fields that occur twice count as often as they
//     occur, in the document's order.
//
// It allocates for objects only. The form is part of the dedup state: changing it makes every key
// a new key.
func (v Value) AppendCanonical(dst []byte) []byte {
	switch v.Kind {
	case Null:
		return append(dst, tagNull, endMark)
	case False:
		return append(dst, tagFalse, endMark)
	case True:
		return append(dst, tagTrue, endMark)
	case Number:
		return appendNumber(dst, v.Raw)
	case String:
		dst = append(dst, tagString)
		return append(v.AppendText(dst), endMark)
	case Array, Object:
		dst, _ = appendContainer(dst, v.Raw, 0)
		return dst
	default:
		return append(dst, tagMissing, endMark)
	}
}

// appendNumber appends sign, significant digits and, unless it is 0, the exponent: 120 is +12e1.
func appendNumber(dst, raw []byte) []byte {
	if isPlainInteger(raw) {
		return append(append(append(dst, tagPositive), raw...), endMark)
	}
	d := decimalOf(raw)
	if d.count == 0 {
		return append(dst, tagPositive, '0', endMark)
	}
	if d.negative {
		dst = append(dst, tagNegative)
	} else {
		dst = append(dst, tagPositive)
	}
	dst = append(append(dst, d.whole...), d.fraction...)
	if e, ok := d.smallExponent(); !ok || e != 0 {
		dst = d.appendExponent(append(dst, 'e'))
	}
	return append(dst, endMark)
}

// isPlainInteger tells whether raw is a short positive integer that is its own canonical form.
func isPlainInteger(raw []byte) bool {
	if len(raw) == 0 || len(raw) > 20 || raw[0] == '0' || raw[len(raw)-1] == '0' {
		return false
	}
	for _, c := range raw {
		if c-'0' > 9 {
			return false
		}
	}
	return true
}

// member is a field of an object in the canonical bytes: its name's end tells where the value begins.
type member struct{ from, nameEnd, to int }

// appendContainer appends the array or object that begins at b[i] and returns the index after it.
// It reads each byte of b once, whatever the depth. It recurs as deep as the document is nested, which
// the reader has bounded.
func appendContainer(dst, b []byte, i int) ([]byte, int) {
	object := b[i] == '{'
	begin := len(dst)
	if object {
		dst = append(dst, tagObject)
	} else {
		dst = append(dst, tagArray)
	}
	var members []member
	for i = skipSpace(b, i+1); i < len(b) && b[i] != ']' && b[i] != '}'; {
		from, nameEnd := len(dst), 0
		if object {
			if dst, i = appendAt(dst, b, i); i < 0 {
				return dst, -1
			}
			nameEnd = len(dst)
			if i = skipSpace(b, i); i < len(b) && b[i] == ':' {
				i++
			}
			i = skipSpace(b, i)
		}
		if dst, i = appendAt(dst, b, i); i < 0 {
			return dst, -1
		}
		if object {
			members = append(members, member{from, nameEnd, len(dst)})
		}
		if i = skipSpace(b, i); i < len(b) && b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	if len(members) > 1 {
		sortMembers(dst, begin+1, members)
	}
	return append(dst, endMark), i + 1
}

// appendAt appends the value that begins at b[i]; -1 when b ends within it.
func appendAt(dst, b []byte, i int) ([]byte, int) {
	if i < len(b) && (b[i] == '{' || b[i] == '[') {
		return appendContainer(dst, b, i)
	}
	v, end := valueAt(b, i)
	if end < 0 {
		return dst, -1
	}
	return v.AppendCanonical(dst), end
}

// sortMembers brings the members, which fill dst from begin on, into the order of their names.
func sortMembers(dst []byte, begin int, members []member) {
	byName := func(a, b member) int {
		return bytes.Compare(dst[a.from:a.nameEnd], dst[b.from:b.nameEnd])
	}
	if slices.IsSortedFunc(members, byName) {
		return
	}
	slices.SortStableFunc(members, byName)
	sorted := make([]byte, 0, len(dst)-begin)
	for _, m := range members {
		sorted = append(sorted, dst[m.from:m.to]...)
	}
	copy(dst[begin:], sorted)
}
