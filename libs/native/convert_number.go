package native

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"strings"
	"unsafe"

	"sluice/libs/jsonread"
)

// integerConverter is for Int8 … UInt256 and the Intervals.
func integerConverter(t *Type) converter {
	if t.width > 8 {
		return wideConverter(t, 0, wideIntegerLimits(t))
	}
	// The greatest magnitude without and with a sign.
	limits := [2]uint64{1<<(8*t.width) - 1, 0}
	if t.kind == kindInt {
		half := uint64(1) << (8*t.width - 1)
		limits = [2]uint64{half - 1, half}
	}
	return narrowConverter(t, 0, limits)
}

func wideIntegerLimits(t *Type) (limits [2]uint256) {
	if t.kind == kindInt {
		half := powerOf2(8*t.width - 1)
		return [2]uint256{minusOne(half), half}
	}
	if t.width == 16 {
		return [2]uint256{minusOne(powerOf2(128)), {}}
	}
	return [2]uint256{minusOne(uint256{}), {}}
}

// minusOne is n-1, modulo 2^256.
func minusOne(n uint256) uint256 {
	for i := range n {
		n[i]--
		if n[i] != math.MaxUint64 {
			break
		}
	}
	return n
}

func decimalConverter(t *Type) converter {
	limit := minusOne(powerOf10(t.precision))
	if t.width > 8 {
		return wideConverter(t, t.scale, [2]uint256{limit, limit})
	}
	return narrowConverter(t, t.scale, [2]uint64{limit[0], limit[0]})
}

// narrowConverter reads numbers of up to 64 bits, times 10^scale, whose magnitude is at most
// limits[0], with a minus limits[1].
func narrowConverter(t *Type, scale int, limits [2]uint64) converter {
	return func(dst []byte, v jsonread.Value) error {
		var n uint64
		var neg bool
		var f fit
		if v.Kind == jsonread.Number {
			n, neg, f = parseUint64(v.Raw, scale)
		} else {
			var buf [64]byte
			n, neg, f = parseUint64(numberText(v, buf[:0]), scale)
		}
		limit := limits[0]
		if neg {
			limit = limits[1]
		}
		if f != exact || n > limit {
			return errNumber(v, f, t.name)
		}
		if neg {
			n = -n
		}
		putInt(dst, int64(n))
		return nil
	}
}

func wideConverter(t *Type, scale int, limits [2]uint256) converter {
	return func(dst []byte, v jsonread.Value) error {
		var buf [64]byte
		n, neg, f := parseWide(numberText(v, buf[:0]), scale)
		limit := limits[0]
		if neg {
			limit = limits[1]
		}
		if f != exact || limit.less(n) {
			return errNumber(v, f, t.name)
		}
		if neg {
			n = n.negate()
		}
		n.put(dst)
		return nil
	}
}

func floatConverter(t *Type) converter {
	bits := 64
	if t.width < 8 {
		bits = 32
	}
	return func(dst []byte, v jsonread.Value) error {
		var buf [64]byte
		f, err := parseFloat(numberText(v, buf[:0]), bits)
		if errors.Is(err, strconv.ErrRange) {
			return errNoFit(v, t.name)
		}
		if err != nil {
			return errNotA(v, t.name)
		}
		switch t.width {
		case 8:
			binary.LittleEndian.PutUint64(dst, math.Float64bits(f))
		case 4:
			binary.LittleEndian.PutUint32(dst, math.Float32bits(float32(f)))
		default:
			// ClickHouse makes a BFloat16 of a Float32 by cutting, not by rounding.
			binary.LittleEndian.PutUint16(dst, uint16(math.Float32bits(float32(f))>>16))
		}
		return nil
	}
}

// parseFloat takes JSON's numbers and the words nan, inf, infinity, in any case, with a sign.
func parseFloat(b []byte, bits int) (float64, error) {
	if len(b) == 0 {
		return 0, strconv.ErrSyntax
	}
	if c := b[len(b)-1]; c > '9' {
		word := strings.ToLower(string(b))
		switch strings.TrimLeft(word, "+-") {
		case "nan", "inf", "infinity":
			return strconv.ParseFloat(word, bits)
		}
		return 0, strconv.ErrSyntax
	}
	for _, c := range b {
		// ParseFloat also takes what Go's literals have: 0x1p-2, 1_000.
		if c == 'x' || c == 'X' || c == '_' {
			return 0, strconv.ErrSyntax
		}
	}
	// The string lives no longer than the call.
	return strconv.ParseFloat(unsafe.String(&b[0], len(b)), bits)
}

func convertBool(dst []byte, v jsonread.Value) error {
	var buf [64]byte
	switch string(numberText(v, buf[:0])) {
	case "1", "true":
		dst[0] = 1
	case "0", "false":
		dst[0] = 0
	default:
		return errNotA(v, "Bool")
	}
	return nil
}

func enumConverter(t *Type) converter {
	return func(dst []byte, v jsonread.Value) error {
		n, err := t.enum.parse(v, t.name)
		if err != nil {
			return err
		}
		putInt(dst, int64(n))
		return nil
	}
}
