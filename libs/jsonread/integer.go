package jsonread

import (
	"errors"
	"math"
)

// Errors of Int64 and Uint64.
var (
	ErrNotNumber  = errors.New("not a number")
	ErrNotInteger = errors.New("not an integer")
	ErrRange      = errors.New("out of range")
)

// Int64 is the value of a Number that is exactly an integer: 12, but also 12.0 and 1.2e1. It gives
// ErrNotNumber, ErrNotInteger or ErrRange; nothing is rounded.
func (v Value) Int64() (int64, error) {
	magnitude, negative, err := v.integer()
	switch {
	case err != nil:
		return 0, err
	case negative && magnitude <= 1<<63:
		return -int64(magnitude), nil // also for 1<<63: the conversion wraps to the least int64
	case negative || magnitude > math.MaxInt64:
		return 0, ErrRange
	}
	return int64(magnitude), nil
}

// Uint64 is like Int64 for integers from 0 to 2^64-1.
func (v Value) Uint64() (uint64, error) {
	magnitude, negative, err := v.integer()
	switch {
	case err != nil:
		return 0, err
	case negative && magnitude != 0:
		return 0, ErrRange
	}
	return magnitude, nil
}

func (v Value) integer() (magnitude uint64, negative bool, err error) {
	if v.Kind != Number || len(v.Raw) == 0 {
		return 0, false, ErrNotNumber
	}
	digits := v.Raw
	if digits[0] == '-' {
		negative, digits = true, digits[1:]
	}
	if len(digits) <= 19 { // cannot overflow: what nearly every integer takes
		for i, c := range digits {
			if c -= '0'; c > 9 {
				break
			}
			magnitude = magnitude*10 + uint64(c)
			if i == len(digits)-1 {
				return magnitude, negative, nil
			}
		}
	}
	d := decimalOf(v.Raw)
	switch exponent, ok := d.smallExponent(); {
	case d.count == 0:
		return 0, negative, nil
	case ok && exponent < 0, !ok && d.negativeExponent():
		return 0, false, ErrNotInteger
	case !ok || d.count+exponent > 20:
		return 0, false, ErrRange
	default:
		magnitude = 0
		for c := range d.digits {
			if magnitude, ok = times10plus(magnitude, uint64(c-'0')); !ok {
				return 0, false, ErrRange
			}
		}
		for range exponent {
			if magnitude, ok = times10plus(magnitude, 0); !ok {
				return 0, false, ErrRange
			}
		}
		return magnitude, negative, nil
	}
}

func times10plus(x, digit uint64) (uint64, bool) {
	if x > (math.MaxUint64-digit)/10 {
		return 0, false
	}
	return x*10 + digit, true
}
