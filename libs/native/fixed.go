package native

import (
	"fmt"
	"slices"

	"sluice/libs/jsonread"
)

// converter writes v into the dst of a column's width. It writes every byte of dst or fails.
type converter func(dst []byte, v jsonread.Value) error

// fixed holds values of one width, one after the other, as Native does.
type fixed struct {
	width   int
	buf     []byte
	convert converter
	zero    []byte // the default value, width bytes
	blank   []byte // what stands where there is no value: zero, but for Date32
	form    form
}

// firstDate32 is ClickHouse's default of Date32: 1900-01-01, in days since 1970. What has no value at all, as the right side of a LEFT JOIN that found nothing, is 1970-01-01
// there nevertheless.
const firstDate32 = -25567

func newFixed(t *Type) (*fixed, error) {
	n := &fixed{width: t.width, zero: make([]byte, t.width), form: formOf(t)}
	n.blank = n.zero
	switch t.kind {
	case kindInt, kindUint:
		n.convert = integerConverter(t)
	case kindFloat, kindBFloat16:
		n.convert = floatConverter(t)
	case kindBool:
		n.convert = convertBool
	case kindFixedString:
		n.convert = fixedStringConverter(t)
	case kindDate, kindDate32:
		n.convert = dateConverter(t)
		if t.kind == kindDate32 {
			n.blank = make([]byte, t.width)
			putInt(n.zero, firstDate32)
		}
	case kindDateTime:
		n.convert = dateTimeConverter(t)
	case kindDateTime64:
		n.convert = dateTime64Converter(t)
	case kindTime, kindTime64:
		n.convert = timeConverter(t)
	case kindDecimal:
		n.convert = decimalConverter(t)
	case kindUUID:
		n.convert = convertUUID
	case kindIPv4:
		n.convert = convertIPv4
	case kindIPv6:
		n.convert = convertIPv6
	case kindEnum:
		n.convert = enumConverter(t)
		putInt(n.zero, int64(t.enum.lowest))
	case kindTuple, kindNothing:
		// Values without content. Native has one byte for each, the digit 0.
		n.zero[0] = '0'
		n.convert = contentlessConverter(t)
	default:
		return nil, fmt.Errorf("type %s has no column", t.name)
	}
	return n, nil
}

func (n *fixed) rows() int { return len(n.buf) / n.width }
func (n *fixed) size() int { return len(n.buf) }
func (n *fixed) reset()    { n.buf = n.buf[:0] }

func (n *fixed) mark(m []int) []int { return append(m, len(n.buf)) }
func (n *fixed) rollback(m []int) []int {
	n.buf = n.buf[:m[0]]
	return m[1:]
}
func (n *fixed) truncate(rows int) { n.buf = n.buf[:rows*n.width] }

func (n *fixed) appendJSON(v jsonread.Value) error {
	if v.Kind <= jsonread.Null {
		return errEmpty(v)
	}
	end := len(n.buf)
	n.buf = slices.Grow(n.buf, n.width)[:end+n.width]
	return n.convert(n.buf[end:], v)
}

func (n *fixed) appendDefault() { n.buf = append(n.buf, n.blank...) }

func (n *fixed) appendWire(dst []byte) []byte { return append(dst, n.buf...) }

func (n *fixed) readWire(src []byte, rows int, keep []byte) ([]byte, error) {
	if len(src)/n.width < rows {
		return nil, errTooShort("a column of fixed width", rows*n.width, len(src))
	}
	n.buf = appendRows(n.buf, src, n.width, rows, keep)
	return src[rows*n.width:], nil
}

// appendRows appends the kept ones of rows values of width bytes at the begin of src.
func appendRows(dst, src []byte, width, rows int, keep []byte) []byte {
	if keep == nil {
		return append(dst, src[:rows*width]...)
	}
	dst = slices.Grow(dst, kept(keep, rows)*width)
	for r := (runs{keep: keep, rows: rows}); ; {
		from, to := r.next()
		if from >= rows {
			return dst
		}
		dst = append(dst, src[from*width:to*width]...)
	}
}

func (n *fixed) prepare() error    { return nil }
func (n *fixed) state(*encoder)    {}
func (n *fixed) encode(e *encoder) { e.bytes(n.buf) }
