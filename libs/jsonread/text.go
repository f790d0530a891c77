package jsonread

import (
	"bytes"
	"unicode/utf8"
)

// AppendText appends the text of v: a String with its escape sequences replaced, any other
// value as the document spells it, nothing for Missing.
func (v Value) AppendText(dst []byte) []byte {
	if v.Kind == String && v.Escaped {
		return appendUnescaped(dst, v.Raw)
	}
	return append(dst, v.Raw...)
}

// appendUnescaped appends s, the inside of a valid string, with its escape sequences replaced.
func appendUnescaped(dst, s []byte) []byte {
	for {
		n := bytes.IndexByte(s, '\\')
		if n < 0 || n+1 >= len(s) {
			return append(dst, s...)
		}
		dst = append(dst, s[:n]...)
		c := s[n+1]
		s = s[n+2:]
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, size := hex4(s, 0), 4
			if isHighSurrogate(r) {
				if low := hex4(s, 6); low >= 0 {
					r, size = 0x10000+(r-0xd800)<<10+(low-0xdc00), 10
				}
			}
			dst = utf8.AppendRune(dst, r)
			s = s[min(size, len(s)):]
		default: // '"', '\\', '/'
			dst = append(dst, c)
		}
	}
}

// hex4 reads the four hexadecimal digits at s[i]; -1 when they are not there.
func hex4(s []byte, i int) rune {
	if i+4 > len(s) {
		return -1
	}
	var r rune
	for _, c := range s[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

func isHighSurrogate(r rune) bool { return r >= 0xd800 && r < 0xdc00 }
func isLowSurrogate(r rune) bool  { return r >= 0xdc00 && r < 0xe000 }
