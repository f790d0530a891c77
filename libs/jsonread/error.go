package jsonread

import (
	"fmt"
	"strconv"
)

// Error says why a document was refused.
type Error struct {
	// Field is the planned path whose value, or second occurrence, is at fault. Empty when the
	// fault is elsewhere in the document.
	Field string
	// Offset is the byte in the document at which the fault was noticed, from 0.
	Offset int
	// Reason is the fault in words.
	Reason string
}

// Error gives reason, field and offset.
func (e *Error) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("invalid JSON at byte %d: %s", e.Offset, e.Reason)
	}
	return fmt.Sprintf("invalid JSON at byte %d, field %q: %s", e.Offset, e.Field, e.Reason)
}

// fault is a reason before it is put in words: the scanners return it so that the good path
// neither allocates nor carries an interface.
type fault uint8

const (
	fine fault = iota
	badEnd
	badEmpty
	badTop
	badValue
	badKey
	badColon
	badObject
	badArray
	badTrailing
	badLiteral
	badNumber
	badEscape
	badSurrogate
	badControl
	badUTF8
	badDepth
	badKeys
	badDuplicate
)

// reason puts f, noticed at b[at], in words.
func (f fault) reason(b []byte, at int, l Limits, field string) string {
	found := ""
	if at < len(b) {
		found = ", found " + strconv.QuoteToASCII(string(rune(b[at])))
		if b[at] >= 0x80 {
			found = fmt.Sprintf(", found byte 0x%02x", b[at])
		}
	}
	switch f {
	case badEnd:
		return "unexpected end of the document"
	case badEmpty:
		return "empty document"
	case badTop:
		return "the document must be an object" + found
	case badValue:
		return "expected a value" + found
	case badKey:
		return "expected a field name in double quotes" + found
	case badColon:
		return "expected ':' after the field name" + found
	case badObject:
		return "expected ',' or '}'" + found
	case badArray:
		return "expected ',' or ']'" + found
	case badTrailing:
		return "unexpected data after the object" + found
	case badLiteral:
		return "expected true, false or null"
	case badNumber:
		return "invalid number" + found
	case badEscape:
		return "invalid escape sequence in a string"
	case badSurrogate:
		return "lone surrogate in a string"
	case badControl:
		return "unescaped control character in a string" + found
	case badUTF8:
		return "invalid UTF-8" + found
	case badDepth:
		return fmt.Sprintf("nested deeper than %d levels", l.Depth)
	case badKeys:
		return fmt.Sprintf("more than %d field names", l.Keys)
	case badDuplicate:
		return fmt.Sprintf("duplicate field %q", field)
	default:
		return "invalid"
	}
}
