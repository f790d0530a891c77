package spec

import (
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// plainJSON rewrites what valid JSON may hold in strings and YAML does not read: surrogate pairs in
// two escapes, and bare characters that YAML takes for line breaks or refuses.
func plainJSON(data []byte) []byte {
	out := make([]byte, 0, len(data)+16)
	for i := 0; i < len(data); {
		if data[i] == '\\' && i+1 < len(data) {
			if r, width := surrogates(data[i:]); width > 0 {
				out = fmt.Appendf(out, `\U%08X`, r)
				i += width
				continue
			}
			if data[i+1] != '/' { // a slash that YAML does not know as an escape
				out = append(out, data[i])
			}
			out = append(out, data[i+1])
			i += 2
			continue
		}
		r, width := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && width == 1:
			out = append(out, `\uFFFD`...) // as encoding/json reads it
		case r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffe || r == 0xffff:
			out = fmt.Appendf(out, `\u%04X`, r)
		default:
			out = append(out, data[i:i+width]...)
		}
		i += width
	}
	return out
}

// surrogates decodes \uD83D\uDE00 at the start of text; width is 0 when there is no surrogate. A
// lone one becomes U+FFFD, as in encoding/json.
func surrogates(text []byte) (r rune, width int) {
	first, ok := escape(text)
	if !ok || !utf16.IsSurrogate(first) {
		return 0, 0
	}
	if second, ok := escape(text[6:]); ok {
		if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
			return r, 12
		}
	}
	return utf8.RuneError, 6
}

func escape(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(n), err == nil
}
