package native

import (
	"math/bits"

	"sluice/libs/jsonread"
)

// fit says how a number was read.
type fit uint8

const (
	exact     fit = iota
	cut           // digits beyond the scale were cut off
	tooBig        // more than the integer holds
	notNumber     // not in the grammar of numbers
)

var pow10 = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
	1e16, 1e17, 1e18, 1e19}

// parseUint64 reads the number b, times 10^scale, as sign and magnitude.
func parseUint64(b []byte, scale int) (n uint64, neg bool, f fit) {
	i := 0
	if len(b) > 0 && b[0] == '-' {
		neg, i = true, 1
	}
	if len(b) == i || len(b)-i > 19 {
		return parseUint64Slow(b, scale)
	}
	fraction := scale // how many digits are yet to come
	for k := i; k < len(b); k++ {
		d := b[k] - '0'
		if d > 9 {
			if b[k] != '.' || k == i || k == len(b)-1 || len(b)-1-k > scale {
				return parseUint64Slow(b, scale)
			}
			fraction = scale - (len(b) - 1 - k)
			// A second point is more digits than the scale leaves: it lands in the slow path.
			for k++; k < len(b); k++ {
				if d = b[k] - '0'; d > 9 {
					return parseUint64Slow(b, scale)
				}
				n = n*10 + uint64(d)
			}
			break
		}
		n = n*10 + uint64(d)
	}
	if fraction == 0 {
		return n, neg, exact
	}
	if fraction >= len(pow10) {
		return parseUint64Slow(b, scale)
	}
	hi, lo := bits.Mul64(n, pow10[fraction])
	if hi != 0 {
		return 0, neg, tooBig
	}
	return lo, neg, exact
}

func parseUint64Slow(b []byte, scale int) (uint64, bool, fit) {
	w, neg, f := parseWide(b, scale)
	if w[1]|w[2]|w[3] != 0 {
		return 0, neg, tooBig
	}
	return w[0], neg, f
}

// parseWide is parseUint64 for up to 256 bits. Its work is linear in len(b), whatever the exponent.
func parseWide(b []byte, scale int) (n uint256, neg bool, f fit) {
	number, ok := splitNumber(b)
	if !ok {
		return n, false, notNumber
	}
	neg = number.neg
	digits, exp := number.significant()
	if len(digits.whole)+len(digits.fraction) == 0 {
		return n, neg, exact
	}
	exp += scale
	count := len(digits.whole) + len(digits.fraction)
	if count+exp > maxDigits256 {
		return n, neg, tooBig
	}
	if exp < 0 {
		f, count, exp = cut, count+exp, 0
	}
	for i := range max(count, 0) {
		if n.mulAdd(10, uint64(digits.at(i)-'0')) {
			return n, neg, tooBig
		}
	}
	for range exp {
		if n.mulAdd(10, 0) {
			return n, neg, tooBig
		}
	}
	return n, neg, f
}

// maxDigits256 is the number of decimal digits of 2^256-1.
const maxDigits256 = 78

// splitted is a number in its parts: whole.fraction × 10^exp.
type splitted struct {
	neg             bool
	whole, fraction []byte
	exp             int
}

// splitNumber takes JSON's grammar of numbers, and zeros in front.
func splitNumber(b []byte) (s splitted, ok bool) {
	if len(b) > 0 && b[0] == '-' {
		s.neg, b = true, b[1:]
	}
	n := countDigits(b)
	if n == 0 {
		return s, false
	}
	s.whole, b = b[:n], b[n:]
	if len(b) > 0 && b[0] == '.' {
		b = b[1:]
		if n = countDigits(b); n == 0 {
			return s, false
		}
		s.fraction, b = b[:n], b[n:]
	}
	if len(b) == 0 {
		return s, true
	}
	if b[0]|0x20 != 'e' {
		return s, false
	}
	b = b[1:]
	negExp := false
	if len(b) > 0 && (b[0] == '-' || b[0] == '+') {
		negExp, b = b[0] == '-', b[1:]
	}
	if len(b) == 0 || countDigits(b) != len(b) {
		return s, false
	}
	for _, c := range b {
		if s.exp < 1<<40 { // saturate: far beyond what any text can level out
			s.exp = s.exp*10 + int(c-'0')
		}
	}
	if negExp {
		s.exp = -s.exp
	}
	return s, true
}

func countDigits(b []byte) int {
	for i, c := range b {
		if c < '0' || c > '9' {
			return i
		}
	}
	return len(b)
}

// significant strips zeros at both ends; the value is the digits, read as an integer, × 10^exp.
func (s splitted) significant() (d splitted, exp int) {
	d, exp = s, s.exp-len(s.fraction)
	for len(d.whole) > 0 && d.whole[0] == '0' {
		d.whole = d.whole[1:]
	}
	for len(d.whole) == 0 && len(d.fraction) > 0 && d.fraction[0] == '0' {
		d.fraction = d.fraction[1:]
	}
	for n := len(d.fraction); n > 0 && d.fraction[n-1] == '0'; n-- {
		d.fraction = d.fraction[:n-1]
		exp++
	}
	for n := len(d.whole); len(d.fraction) == 0 && n > 0 && d.whole[n-1] == '0'; n-- {
		d.whole = d.whole[:n-1]
		exp++
	}
	return d, exp
}

func (s splitted) at(i int) byte {
	if i < len(s.whole) {
		return s.whole[i]
	}
	return s.fraction[i-len(s.whole)]
}

// numberText is the text that a number is read from: of a Number or a String, "1" of true, "0" of
// false, nothing of others.
func numberText(v jsonread.Value, buf []byte) []byte {
	switch v.Kind {
	case jsonread.Number:
		return v.Raw
	case jsonread.String:
		return textOf(v, buf)
	case jsonread.True:
		return append(buf, '1')
	case jsonread.False:
		return append(buf, '0')
	}
	return nil
}

// textOf is the text of a String, in the memory of buf when it holds escape sequences.
func textOf(v jsonread.Value, buf []byte) []byte {
	if v.Escaped {
		return v.AppendText(buf)
	}
	return v.Raw
}

// errNumber explains why v did not give a value of the type.
func errNumber(v jsonread.Value, f fit, typeName string) error {
	switch f {
	case notNumber:
		return errNotA(v, typeName)
	case cut:
		return valueErrorf("%s has digits that %s would lose", show(v), typeName)
	}
	return errNoFit(v, typeName)
}
