package jsonread

import (
	"bytes"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// corpus reads a file of Go string literals, one a line.
func corpus(t testing.TB, file string) []string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	var docs []string
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		doc, err := strconv.Unquote(line)
		require.NoError(t, err, line)
		docs = append(docs, doc)
	}
	return docs
}

// valid is the oracle: what encoding/json takes, in UTF-8, an object, without lone surrogates.
func valid(doc []byte) bool {
	return json.Valid(doc) && utf8.Valid(doc) && bytes.TrimLeft(doc, " \t\r\n")[0] == '{' && !loneSurrogate(string(doc))
}

// loneSurrogate looks through valid JSON, in which a backslash only occurs inside strings.
func loneSurrogate(doc string) bool {
	for {
		n := strings.IndexByte(doc, '\\')
		if n < 0 {
			return false
		}
		if doc = doc[n+1:]; doc[0] != 'u' {
			doc = doc[1:]
			continue
		}
		first, _ := strconv.ParseUint(doc[1:5], 16, 16)
		doc = doc[5:]
		switch {
		case first < 0xd800 || first > 0xdfff:
		case first >= 0xdc00 || !strings.HasPrefix(doc, `\u`):
			return true
		default:
			if second, _ := strconv.ParseUint(doc[2:6], 16, 16); second < 0xdc00 || second > 0xdfff {
				return true
			}
			doc = doc[6:]
		}
	}
}

// The places where a value can be: each is read by another piece of the reader.
var places = []struct{ name, before, after string }{
	{"planned", `{"a":`, `}`},
	{"planned with neighbours", `{"k":0,"a":`, `,"z":"some more text"}`},
	{"in a planned object", `{"n":{"b":`, `}}`},
	{"in a planned array", `{"a":[`, `]}`},
	{"unplanned", `{"x":`, `}`},
	{"unplanned, deeper", `{"x":[{"y":[0,`, `]},{}]}`},
	{"spaced", "{ \"a\"\t:\n", "\r\n}\n"},
}

func TestValidity(t *testing.T) {
	p, err := NewPlan([]string{"a", "n.b"})
	require.NoError(t, err)
	r, out := NewReader(p, Limits{}), make([]Value, 2)
	for _, file := range []string{"values_accept.txt", "values_reject.txt"} {
		want := file == "values_accept.txt"
		for _, value := range corpus(t, file) {
			for _, place := range places {
				if value == "" || value == " " || value == "1,2" || value == "1],2[" {
					if strings.HasSuffix(place.before, "[") || strings.HasSuffix(place.before, ",") {
						continue // valid there
					}
				}
				doc := []byte(place.before + value + place.after)
				require.Equal(t, want, valid(doc), "oracle, %s: %q", place.name, doc)
				err := r.Read(doc, out)
				if want {
					require.NoError(t, err, "%s: %q", place.name, doc)
					continue
				}
				var e *Error
				require.ErrorAs(t, err, &e, "%s: %q", place.name, doc)
				require.LessOrEqual(t, e.Offset, len(doc))
				require.NotEmpty(t, e.Reason)
			}
		}
	}
}

// Every prefix of a document is invalid, and so is the document with one more closing bracket.
func TestCutDocuments(t *testing.T) {
	for _, file := range []string{"event-200b.json", "event-1500b.json", "event-unicode.json"} {
		doc, err := os.ReadFile("testdata/" + file)
		require.NoError(t, err)
		doc = bytes.TrimSpace(doc)
		p, err := NewPlan([]string{"event_id", "text"})
		require.NoError(t, err)
		r, out := NewReader(p, Limits{}), make([]Value, 2)
		require.NoError(t, r.Read(doc, out))
		for n := range doc {
			require.Error(t, r.Read(bytes.Clone(doc[:n]), out), n)
		}
		require.Error(t, r.Read(append(bytes.Clone(doc), '}'), out))
	}
}
