package native

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// AppendConverted appends the row whose cell src begins with, of a column of type from that is not optional, and returns what follows the cell. The value is
// what JSON says of it, read by the rules for this column's type: a number that fits, an Enum's value by its name, a moment by its instant. For one that
// does not fit the error is a *ValueError, and rest is returned all the same. After an error the column is as it was.
func (c *Column) AppendConverted(src []byte, from *Type) (rest []byte, err error) {
	text, rest, err := appendValue(c.scratch[:0], from, src)
	if err == nil && len(text) == 0 { // a JSON column's text is whatever it was given
		err = errCutWire
	}
	if err != nil {
		return nil, fmt.Errorf("cell of %s: %w", from.name, err)
	}
	c.scratch = text
	return rest, c.AppendJSON(literalValue(text))
}

// appendValue appends the JSON of the one value of type t, in wire form, that src begins with, such that a column of the type reads the same value.
func appendValue(dst []byte, t *Type, src []byte) (out, rest []byte, err error) {
	switch t.kind {
	case kindString:
		text, rest, err := cutText(src)
		return appendQuoted(dst, text), rest, err
	case kindJSON, kindDynamic:
		text, rest, err := cutText(src)
		return append(dst, text...), rest, err
	case kindNullable:
		if len(src) == 0 {
			return nil, nil, errCutWire
		}
		before := len(dst)
		if dst, rest, err = appendValue(dst, t.elems[0], src[1:]); err == nil && src[0] != 0 {
			dst = append(dst[:before], "null"...)
		}
		return dst, rest, err
	case kindLowCardinality:
		return appendValue(dst, t.elems[0], src)
	case kindArray:
		return appendElements(dst, "[]", t.elems[0], src, appendValue)
	case kindMap:
		return appendElements(dst, "{}", &Type{kind: kindTuple, elems: t.elems}, src, appendPair)
	case kindVariant:
		switch {
		case len(src) == 0 || int(src[0]) >= len(t.elems) && src[0] != noVariant:
			return nil, nil, errCutWire
		case src[0] == noVariant:
			return append(dst, "null"...), src[1:], nil
		}
		return appendValue(dst, t.elems[src[0]], src[1:])
	case kindTuple:
		if len(t.elems) > 0 {
			return appendTuple(dst, t, src)
		}
	}
	if len(src) < t.width {
		return nil, nil, errTooShort("a value", t.width, len(src))
	}
	return appendFixed(dst, t, src[:t.width]), src[t.width:], nil
}

// cutText cuts a string off.
func cutText(src []byte) (text, rest []byte, err error) {
	end, err := skipStrings(src, 1)
	if err != nil {
		return nil, nil, err
	}
	text, _ = stringAt(src, 0)
	return text, src[end:], nil
}

// appendElements appends what an array in wire form holds, between brackets: its elements lie column by column.
func appendElements(dst []byte, brackets string, t *Type, src []byte, one func(dst []byte, t *Type, src []byte) (out, rest []byte, err error)) (out, rest []byte, err error) {
	if len(src) < 8 {
		return nil, nil, errTooShort("the end of an array", 8, len(src))
	}
	n := binary.LittleEndian.Uint64(src)
	if n > uint64(len(src)) {
		return nil, nil, errCutWire
	}
	elements := newPart(t)
	if rest, err = elements.open(src[8:], int(n)); err != nil {
		return nil, nil, err
	}
	dst = append(dst, brackets[0])
	var element []byte
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		element = elements.cut(element[:0], 1)
		if dst, _, err = one(dst, t, element); err != nil {
			return nil, nil, err
		}
	}
	return append(dst, brackets[1]), rest, nil
}

// appendPair appends a member of an object. Its name is a text, whatever a Map's key is.
func appendPair(dst []byte, t *Type, src []byte) (out, rest []byte, err error) {
	key, rest, err := appendValue(nil, t.elems[0], src)
	if err != nil {
		return nil, nil, err
	}
	if len(key) == 0 || key[0] != '"' {
		key = appendQuoted(nil, key)
	}
	return appendValue(append(append(dst, key...), ':'), t.elems[1], rest)
}

func appendTuple(dst []byte, t *Type, src []byte) (out, rest []byte, err error) {
	brackets := "[]"
	if t.names != nil {
		brackets = "{}"
	}
	dst = append(dst, brackets[0])
	for i, elem := range t.elems {
		if i > 0 {
			dst = append(dst, ',')
		}
		if t.names != nil {
			dst = append(appendQuoted(dst, []byte(t.names[i])), ':')
		}
		if dst, src, err = appendValue(dst, elem, src); err != nil {
			return nil, nil, err
		}
	}
	return append(dst, brackets[1]), src, nil
}

// appendFixed appends a value of fixed width.
func appendFixed(dst []byte, t *Type, b []byte) []byte {
	switch t.kind {
	case kindInt, kindUint, kindDecimal:
		return appendScaled(dst, integerOf(b, t.kind != kindUint), t.scale)
	case kindFloat, kindBFloat16:
		return appendFloat(dst, b)
	case kindQBit:
		dst = append(dst, '[')
		for i := 0; i < len(b); i += t.elems[0].width {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendFloat(dst, b[i:i+t.elems[0].width])
		}
		return append(dst, ']')
	case kindBool:
		return strconv.AppendBool(dst, b[0] != 0)
	case kindTuple:
		return append(dst, "[]"...)
	case kindNothing:
		return append(dst, "null"...)
	case kindEnum:
		n := integerOf(b, true).Int64()
		for name, value := range t.enum.values {
			if int64(value) == n {
				return appendQuoted(dst, []byte(name))
			}
		}
		return strconv.AppendInt(dst, n, 10)
	case kindFixedString:
		for len(b) > 0 && b[len(b)-1] == 0 {
			b = b[:len(b)-1]
		}
		return appendQuoted(dst, b)
	}
	dst = append(dst, '"')
	switch t.kind {
	case kindDate, kindDate32:
		days := integerOf(b, t.kind == kindDate32).Int64()
		dst = time.Unix(days*secondsPerDay, 0).UTC().AppendFormat(dst, time.DateOnly)
	case kindDateTime:
		dst = appendMoment(dst, int64(binary.LittleEndian.Uint32(b)), 0)
	case kindDateTime64:
		dst = appendMoment(dst, int64(binary.LittleEndian.Uint64(b)), t.precision)
	case kindTime, kindTime64:
		dst = appendTime(dst, integerOf(b, true).Int64(), t.precision)
	case kindUUID:
		id := binary.BigEndian.AppendUint64(nil, binary.LittleEndian.Uint64(b))
		id = binary.BigEndian.AppendUint64(id, binary.LittleEndian.Uint64(b[8:]))
		for i, from := range []int{0, 4, 6, 8, 10} {
			if i > 0 {
				dst = append(dst, '-')
			}
			dst = hex.AppendEncode(dst, id[from:[]int{4, 6, 8, 10, 16}[i]])
		}
	case kindIPv4:
		dst = netip.AddrFrom4([4]byte{b[3], b[2], b[1], b[0]}).AppendTo(dst)
	case kindIPv6:
		dst = netip.AddrFrom16([16]byte(b)).AppendTo(dst)
	}
	return append(dst, '"')
}

// integerOf reads a little-endian integer of any width.
func integerOf(b []byte, signed bool) *big.Int {
	be := slices.Clone(b)
	slices.Reverse(be)
	n := new(big.Int).SetBytes(be)
	if signed && be[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return n
}

// appendScaled appends n / 10^scale.
func appendScaled(dst []byte, n *big.Int, scale int) []byte {
	digits := n.Text(10)
	if digits[0] == '-' {
		dst, digits = append(dst, '-'), digits[1:]
	}
	if scale == 0 {
		return append(dst, digits...)
	}
	for len(digits) <= scale {
		digits = "0" + digits
	}
	point := len(digits) - scale
	return append(append(append(dst, digits[:point]...), '.'), digits[point:]...)
}

// appendFloat appends a float of any width; what JSON has no number for as a word.
func appendFloat(dst, b []byte) []byte {
	var f float64
	bits := 32
	switch len(b) {
	case 2:
		f = float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16))
	case 4:
		f = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	default:
		f, bits = math.Float64frombits(binary.LittleEndian.Uint64(b)), 64
	}
	switch abs := math.Abs(f); {
	case f != f:
		return append(dst, `"nan"`...)
	case math.IsInf(f, 1):
		return append(dst, `"inf"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-inf"`...)
	case abs != 0 && (abs < 1e-6 || abs >= 1e21):
		return strconv.AppendFloat(dst, f, 'e', -1, bits)
	}
	return strconv.AppendFloat(dst, f, 'f', -1, bits)
}

// appendMoment appends a moment in UTC, and says so: a column of another zone reads the same moment.
func appendMoment(dst []byte, ticks int64, precision int) []byte {
	perSecond := int64(pow10[precision])
	seconds, fraction := ticks/perSecond, ticks%perSecond
	if fraction < 0 {
		seconds, fraction = seconds-1, fraction+perSecond
	}
	dst = time.Unix(seconds, 0).UTC().AppendFormat(dst, "2006-01-02 15:04:05")
	return append(appendFraction(dst, fraction, precision), 'Z')
}

func appendTime(dst []byte, ticks int64, precision int) []byte {
	magnitude := uint64(ticks)
	if ticks < 0 {
		dst, magnitude = append(dst, '-'), -magnitude
	}
	seconds := magnitude / pow10[precision]
	dst = fmt.Appendf(dst, "%02d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60)
	return appendFraction(dst, int64(magnitude%pow10[precision]), precision)
}

func appendFraction(dst []byte, fraction int64, precision int) []byte {
	if precision == 0 {
		return dst
	}
	return fmt.Appendf(dst, ".%0*d", precision, fraction)
}

// appendQuoted appends a JSON string. Bytes that are no UTF-8 stay as they are, as a String column has them.
func appendQuoted(dst, text []byte) []byte {
	dst = append(dst, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = fmt.Appendf(dst, `\u%04x`, c)
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
