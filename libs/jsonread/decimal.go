package jsonread

import (
	"bytes"
	"strconv"
)

// decimal is a number literal as ±digits × 10^exponent, where digits neither begins nor ends with a
// zero: two literals are the same number exactly when their decimals are equal. Zero has no digits.
// Nothing is computed with the exponent beyond an addition, so that 1e999999999 costs its ten bytes.
type decimal struct {
	negative bool
	whole    []byte // the significant digits before the decimal point
	fraction []byte // and after it
	count    int    // number of significant digits
	// The exponent is shift plus the literal's own, which may be longer than any integer type.
	shift    int
	expMinus bool
	exp      []byte // digits without leading zeros
}

// decimalOf takes a valid number literal apart.
func decimalOf(raw []byte) (d decimal) {
	if len(raw) > 0 && raw[0] == '-' {
		d.negative, raw = true, raw[1:]
	}
	if e := bytes.IndexAny(raw, "eE"); e >= 0 {
		d.exp, raw = raw[e+1:], raw[:e]
		if len(d.exp) > 0 && (d.exp[0] == '-' || d.exp[0] == '+') {
			d.expMinus, d.exp = d.exp[0] == '-', d.exp[1:]
		}
		d.exp = bytes.TrimLeft(d.exp, "0")
	}
	d.whole = raw
	if p := bytes.IndexByte(raw, '.'); p >= 0 {
		d.whole, d.fraction = raw[:p], bytes.TrimRight(raw[p+1:], "0")
	}
	d.shift = -len(d.fraction)
	if d.whole = bytes.TrimLeft(d.whole, "0"); len(d.whole) == 0 {
		d.fraction = bytes.TrimLeft(d.fraction, "0")
	}
	if len(d.fraction) == 0 {
		trimmed := bytes.TrimRight(d.whole, "0")
		d.shift += len(d.whole) - len(trimmed)
		d.whole = trimmed
	}
	d.count = len(d.whole) + len(d.fraction)
	return d
}

// digits yields the significant digits, as characters.
func (d *decimal) digits(yield func(byte) bool) {
	for _, part := range [...][]byte{d.whole, d.fraction} {
		for _, c := range part {
			if !yield(c) {
				return
			}
		}
	}
}

// smallExponent is the exponent if the literal's own has at most 17 digits.
func (d *decimal) smallExponent() (exponent int, ok bool) {
	if len(d.exp) > 17 {
		return 0, false
	}
	for _, c := range d.exp {
		exponent = exponent*10 + int(c-'0')
	}
	if d.expMinus {
		exponent = -exponent
	}
	return exponent + d.shift, true
}

// negativeExponent is for exponents that are not small: the shift, at most the length of a
// document, cannot change their sign.
func (d *decimal) negativeExponent() bool { return d.expMinus }

// appendExponent appends the exponent in decimal, whatever its length.
func (d *decimal) appendExponent(dst []byte) []byte {
	if e, ok := d.smallExponent(); ok {
		return strconv.AppendInt(dst, int64(e), 10)
	}
	shift := d.shift
	if d.expMinus {
		dst, shift = append(dst, '-'), -shift
	}
	start := len(dst)
	dst = append(dst, d.exp...)
	// Schoolbook addition of shift to the digits, from the last one on. |shift| < exp.
	digits := dst[start:]
	for i := len(digits) - 1; i >= 0 && shift != 0; i-- {
		sum := int(digits[i]-'0') + shift
		digit := sum % 10
		shift = sum / 10
		if digit < 0 {
			digit, shift = digit+10, shift-1
		}
		digits[i] = byte('0' + digit)
	}
	if shift > 0 { // a carry out of the first digit: it can only be 1
		dst = append(dst, 0)
		copy(dst[start+1:], dst[start:])
		dst[start] = '1'
		return dst
	}
	kept := bytes.TrimLeft(dst[start:], "0")
	return append(dst[:start], kept...)
}
