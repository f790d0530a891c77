package native

import (
	"bytes"
	"encoding/binary"

	"sluice/libs/jsonread"
)

// What the types hold. Outside of it ClickHouse clamps or wraps; here it is an error.
const (
	minDate32 = -25567 // 1900-01-01
	maxDate32 = 120529 // 2299-12-31
	maxDate   = 1<<16 - 1

	secondsPerDay = 86400
	minDateTime64 = minDate32 * secondsPerDay
	maxDateTime64 = (maxDate32+1)*secondsPerDay - 1

	maxTime = 999*3600 + 59*60 + 59

	// minTimestampDigits is how many digits a quoted number needs to be a time: "2024" is none.
	minTimestampDigits = 5

	// firstTicks is from where ClickHouse takes a quoted integer for ticks instead of seconds.
	firstTicks = 9908870400
)

func dateConverter(t *Type) converter {
	low, high := int64(0), int64(maxDate)
	if t.kind == kindDate32 {
		low, high = minDate32, maxDate32
	}
	return func(dst []byte, v jsonread.Value) error {
		var days int64
		switch v.Kind {
		case jsonread.Number:
			n, neg, f := parseUint64(v.Raw, 0)
			if f != exact || n > maxDate32 {
				return errNumber(v, f, t.name)
			}
			if days = int64(n); neg {
				days = -days
			}
		case jsonread.String:
			var buf [64]byte
			b := textOf(v, buf[:0])
			d, ok := parseDate(b)
			if !ok || len(b) != dateLen {
				return errNotA(v, t.name)
			}
			days = d
		default:
			return errNotA(v, t.name)
		}
		if days < low || days > high {
			return errNoFit(v, t.name)
		}
		putInt(dst, days)
		return nil
	}
}

func dateTimeConverter(t *Type) converter {
	return func(dst []byte, v jsonread.Value) error {
		var seconds int64
		switch v.Kind {
		case jsonread.String:
			var buf [64]byte
			b := textOf(v, buf[:0])
			var ok bool
			if seconds, _, ok = parseDateTime(b, t.loc); !ok {
				n, neg, f := parseUint64(b, 0)
				if f > cut || neg || countDigits(b) < minTimestampDigits {
					return errNotA(v, t.name)
				}
				seconds = int64(min(n, 1<<32))
			}
		case jsonread.Number:
			n, neg, f := parseUint64(v.Raw, 0)
			if f > cut || neg && n > 0 {
				return errNoFit(v, t.name)
			}
			seconds = int64(min(n, 1<<32))
		default:
			return errNotA(v, t.name)
		}
		if seconds < 0 || seconds > 1<<32-1 {
			return errNoFit(v, t.name)
		}
		binary.LittleEndian.PutUint32(dst, uint32(seconds))
		return nil
	}
}

func dateTime64Converter(t *Type) converter {
	perSecond := int64(pow10[t.precision])
	low, high := minDateTime64*perSecond, int64(maxInt64)
	if t.precision < 9 {
		high = maxDateTime64*perSecond + perSecond - 1
	}
	return func(dst []byte, v jsonread.Value) error {
		var ticks int64
		var f fit
		switch v.Kind {
		case jsonread.String:
			var buf [64]byte
			b := textOf(v, buf[:0])
			seconds, fraction, ok := parseDateTime(b, t.loc)
			switch {
			case !ok:
				ticks, f = quotedTicks(b, t.precision)
			case seconds < minDateTime64 || seconds > min(maxDateTime64, maxInt64/perSecond):
				f = tooBig
			default:
				ticks = seconds*perSecond + fractionTicks(fraction, t.precision)
				if seconds > 0 && ticks < 0 {
					f = tooBig // the last second that nanoseconds reach is not a whole one
				}
			}
		case jsonread.Number:
			ticks, f = numberTicks(v.Raw, t.precision)
		default:
			f = notNumber
		}
		switch {
		case f == notNumber:
			return errNotA(v, t.name)
		case f == tooBig || ticks < low || ticks > high:
			return errNoFit(v, t.name)
		}
		binary.LittleEndian.PutUint64(dst, uint64(ticks))
		return nil
	}
}

const maxInt64 = 1<<63 - 1

// numberTicks reads a bare JSON number: an integer counts ticks, as ClickHouse's JSONEachRow has
// it; a number with a fraction or an exponent counts seconds.
func numberTicks(b []byte, precision int) (int64, fit) {
	if bytes.ContainsAny(b, ".eE") {
		return signedTicks(b, precision)
	}
	return signedTicks(b, 0)
}

// quotedTicks reads a quoted number: seconds, or ticks when it is an integer too great for that.
func quotedTicks(b []byte, precision int) (int64, fit) {
	if countDigits(b) < minTimestampDigits {
		return 0, notNumber
	}
	if n, neg, f := parseUint64(b, 0); f == exact && !neg && n >= firstTicks && countDigits(b) == len(b) {
		return signedTicks(b, 0)
	}
	return signedTicks(b, precision)
}

// signedTicks reads a number times 10^scale; digits beyond are cut off.
func signedTicks(b []byte, scale int) (int64, fit) {
	n, neg, f := parseUint64(b, scale)
	switch {
	case f > cut:
		return 0, f
	case n > maxInt64:
		return 0, tooBig
	case neg:
		return -int64(n), exact
	}
	return int64(n), exact
}

// timeConverter is for Time (seconds) and Time64 (ticks).
func timeConverter(t *Type) converter {
	perSecond := int64(pow10[t.precision])
	limit := maxTime*perSecond + perSecond - 1
	return func(dst []byte, v jsonread.Value) error {
		var ticks int64
		var f fit
		switch v.Kind {
		case jsonread.String:
			var buf [64]byte
			b := textOf(v, buf[:0])
			neg := len(b) > 0 && b[0] == '-'
			if neg {
				b = b[1:]
			}
			seconds, fraction, n := parseClock(b)
			if n == 0 || n != len(b) {
				f = notNumber
			}
			if ticks = seconds*perSecond + fractionTicks(fraction, t.precision); neg {
				ticks = -ticks
			}
		case jsonread.Number:
			ticks, f = numberTicks(v.Raw, t.precision)
		default:
			f = notNumber
		}
		switch {
		case f == notNumber:
			return errNotA(v, t.name)
		case f == tooBig || ticks < -limit || ticks > limit:
			return errNoFit(v, t.name)
		}
		putInt(dst, ticks)
		return nil
	}
}
