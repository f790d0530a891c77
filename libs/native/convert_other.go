package native

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"unsafe"

	"sluice/libs/jsonread"
)

// fixedStringConverter pads with zeros. A longer text is an error.
func fixedStringConverter(t *Type) converter {
	return func(dst []byte, v jsonread.Value) error {
		var buf [64]byte
		text := textOf(v, buf[:0])
		if len(text) > len(dst) {
			return valueErrorf("%s is longer than %s", show(v), t.name)
		}
		clear(dst[copy(dst, text):])
		return nil
	}
}

// contentlessConverter is for Tuple() and Nothing, whose values all are the digit 0.
func contentlessConverter(t *Type) converter {
	return func(dst []byte, v jsonread.Value) error {
		empty := t.kind == kindTuple && (v.Kind == jsonread.Array || v.Kind == jsonread.Object)
		if v.Kind == jsonread.Array {
			if err := jsonread.Elements(v.Raw, func(jsonread.Value) error {
				empty = false
				return nil
			}); err != nil {
				return asValueError(v, err)
			}
		}
		if !empty {
			return errNotA(v, t.name)
		}
		dst[0] = '0'
		return nil
	}
}

// convertUUID writes two little-endian words, the first half of the UUID first.
func convertUUID(dst []byte, v jsonread.Value) error {
	var buf [64]byte
	var id [16]byte
	if v.Kind != jsonread.String || !parseUUID(&id, textOf(v, buf[:0])) {
		return errNotA(v, "UUID")
	}
	binary.LittleEndian.PutUint64(dst, binary.BigEndian.Uint64(id[:]))
	binary.LittleEndian.PutUint64(dst[8:], binary.BigEndian.Uint64(id[8:]))
	return nil
}

// parseUUID reads 32 hexadecimal digits, with the four usual hyphens or none.
func parseUUID(id *[16]byte, b []byte) bool {
	hyphens := len(b) == 36
	if !hyphens && len(b) != 32 {
		return false
	}
	pos := 0
	for i := range id {
		if hyphens && (i == 4 || i == 6 || i == 8 || i == 10) {
			if b[pos] != '-' {
				return false
			}
			pos++
		}
		hi, lo := hexDigits[b[pos]], hexDigits[b[pos+1]]
		if hi|lo > 15 {
			return false
		}
		id[i] = hi<<4 | lo
		pos += 2
	}
	return true
}

// hexDigits is the value of each hexadecimal digit, 255 for other bytes.
var hexDigits = func() (table [256]byte) {
	for i := range table {
		table[i] = 255
	}
	for i, c := range []byte("0123456789abcdef") {
		table[c] = byte(i)
	}
	for i, c := range []byte("ABCDEF") {
		table[c] = byte(10 + i)
	}
	return table
}()

// parseAddr reads an IP address. Zones ("%eth0") have no place in the types.
func parseAddr(v jsonread.Value) (netip.Addr, bool) {
	text := v.Raw
	if v.Escaped {
		text = v.AppendText(nil)
	}
	if v.Kind != jsonread.String || len(text) == 0 {
		return netip.Addr{}, false
	}
	// What keeps the string is the error, and that goes no further.
	a, err := netip.ParseAddr(unsafe.String(&text[0], len(text)))
	return a, err == nil && a.Zone() == ""
}

func convertIPv4(dst []byte, v jsonread.Value) error {
	a, ok := parseAddr(v)
	if !ok || !a.Is4() {
		return errNotA(v, "IPv4")
	}
	b := a.As4()
	slices.Reverse(b[:])
	copy(dst, b[:])
	return nil
}

func convertIPv6(dst []byte, v jsonread.Value) error {
	a, ok := parseAddr(v)
	if !ok {
		return errNotA(v, "IPv6")
	}
	b := a.As16()
	copy(dst, b[:])
	return nil
}
