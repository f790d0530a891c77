package native

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"sluice/libs/jsonread"
)

// ValueError says why a value does not fit a column, in words for the user whose value it is.
type ValueError struct{ Reason string }

func (e *ValueError) Error() string { return e.Reason }

// shownBytes bounds how much of a value an error repeats: values can be megabytes.
const shownBytes = 64

func valueErrorf(format string, args ...any) error {
	return &ValueError{Reason: fmt.Sprintf(format, args...)}
}

func errNotA(v jsonread.Value, typeName string) error {
	return valueErrorf("%s is not %s %s", show(v), article(typeName), typeName)
}

func errNoFit(v jsonread.Value, typeName string) error {
	return valueErrorf("%s does not fit %s", show(v), typeName)
}

// errEmpty tells of a null or missing value for a column that cannot hold it.
func errEmpty(v jsonread.Value) error {
	if v.Kind == jsonread.Missing {
		return &ValueError{Reason: "missing field"}
	}
	return &ValueError{Reason: "null in a non-Nullable column"}
}

// within puts a place before the reason of a ValueError: "element 3: 300 does not fit UInt8".
func within(err error, format string, args ...any) error {
	var ve *ValueError
	if !errors.As(err, &ve) {
		return err
	}
	return &ValueError{Reason: fmt.Sprintf(format, args...) + ": " + ve.Reason}
}

func article(noun string) string {
	switch noun[0] {
	case 'I', 'E', 'A': // Int64, Interval, IPv4, Enum8, Array
		return "an"
	}
	return "a"
}

func show(v jsonread.Value) string {
	switch v.Kind {
	case jsonread.Missing:
		return "a missing field"
	case jsonread.Null:
		return "null"
	case jsonread.String:
		text := v.Raw
		if v.Escaped {
			text = v.AppendText(nil)
		}
		return strconv.Quote(shorten(text))
	}
	return shorten(v.Raw)
}

func shorten(b []byte) string {
	if len(b) <= shownBytes {
		return string(b)
	}
	n := shownBytes
	for n > shownBytes-utf8.UTFMax && !utf8.RuneStart(b[n]) {
		n--
	}
	return string(b[:n]) + "…"
}
