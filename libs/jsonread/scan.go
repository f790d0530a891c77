package jsonread

import (
	"encoding/binary"
	"math/bits"
)

// The scanners read b from i on. They return the index after what they read, or the index and
// kind of the fault.

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// special marks, in the high bit of its byte, the first byte of x that is a quote, a backslash, a
// control character or not ASCII. Bytes above the first may be marked wrongly, by the borrow.
func special(x uint64) uint64 {
	quote := x ^ lows*'"'
	backslash := x ^ lows*'\\'
	return ((quote - lows) | (backslash - lows) | (x - lows*' ') | x) & highs
}

// scanString reads the inside of a string and stops at the quote that ends it.
func scanString(b []byte, i int) (end int, escaped bool, bad fault) {
	for {
		// In unsigned numbers, so that the compiler sees that no bounds need checking.
		for uint(i) < uint(len(b)) && uint(i)+8 <= uint(len(b)) {
			if m := special(binary.LittleEndian.Uint64(b[i : i+8])); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		if i >= len(b) {
			return i, escaped, badEnd
		}
		switch c := b[i]; {
		case c == '"':
			return i, escaped, fine
		case c == '\\':
			escaped = true
			if i, bad = scanEscapes(b, i); bad != fine {
				return i, escaped, bad
			}
		case c >= 0x80:
			if i, bad = scanRunes(b, i); bad != fine {
				return i, escaped, bad
			}
		case c < ' ':
			return i, escaped, badControl
		default: // in the last seven bytes
			i++
		}
	}
}

// scanEscapes reads escape sequences as long as one follows the other.
func scanEscapes(b []byte, i int) (int, fault) {
	for i < len(b) && b[i] == '\\' {
		if i+1 >= len(b) {
			return i + 1, badEnd
		}
		switch b[i+1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i += 2
		case 'u':
			r := hex4(b, i+2)
			switch {
			case r < 0:
				return i, badEscape
			case isHighSurrogate(r):
				if i+8 > len(b) || b[i+6] != '\\' || b[i+7] != 'u' || !isLowSurrogate(hex4(b, i+8)) {
					return i, badSurrogate
				}
				i += 12
			case isLowSurrogate(r):
				return i, badSurrogate
			default:
				i += 6
			}
		default:
			return i, badEscape
		}
	}
	return i, fine
}

// scanRunes reads UTF-8 sequences of two to four bytes up to the next ASCII character. It takes
// what RFC 3629 takes: no overlong form, no surrogate, nothing above U+10FFFF.
func scanRunes(b []byte, i int) (int, fault) {
	for i < len(b) && b[i] >= 0x80 {
		c := b[i]
		var size int
		low, high := byte(0x80), byte(0xbf) // bounds of the second byte
		switch {
		case c < 0xc2:
			return i, badUTF8
		case c < 0xe0:
			size = 2
		case c < 0xf0:
			size = 3
			if c == 0xe0 {
				low = 0xa0
			} else if c == 0xed {
				high = 0x9f
			}
		case c < 0xf5:
			size = 4
			if c == 0xf0 {
				low = 0x90
			} else if c == 0xf4 {
				high = 0x8f
			}
		default:
			return i, badUTF8
		}
		if i+size > len(b) || b[i+1] < low || b[i+1] > high {
			return i, badUTF8
		}
		for _, c := range b[i+2 : i+size] {
			if c&0xc0 != 0x80 {
				return i, badUTF8
			}
		}
		i += size
	}
	return i, fine
}

// scanNumber reads a number by RFC 8259. What follows it is for the caller to check: that also
// refuses a leading zero.
func scanNumber(b []byte, i int) (int, fault) {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else {
		start := i
		if i = scanDigits(b, i); i == start {
			return i, badNumber
		}
	}
	if i < len(b) && b[i] == '.' {
		start := i + 1
		if i = scanDigits(b, start); i == start {
			return i, badNumber
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		start := i
		if i = scanDigits(b, i); i == start {
			return i, badNumber
		}
	}
	return i, fine
}

func scanDigits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' < 10 {
		i++
	}
	return i
}

// scanLiteral reads true, false or null, by the first letter, which the caller has seen.
func scanLiteral(b []byte, i int) (end int, kind Kind, bad fault) {
	switch b[i] {
	case 't':
		if i+4 <= len(b) && string(b[i:i+4]) == "true" {
			return i + 4, True, fine
		}
	case 'f':
		if i+5 <= len(b) && string(b[i:i+5]) == "false" {
			return i + 5, False, fine
		}
	case 'n':
		if i+4 <= len(b) && string(b[i:i+4]) == "null" {
			return i + 4, Null, fine
		}
	default:
		return i, Missing, badValue
	}
	return i, Missing, badLiteral
}
