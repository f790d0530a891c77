package jsonread

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// read reads doc by paths and gives each value as kind and text.
func read(t *testing.T, doc string, paths ...string) ([]string, error) {
	t.Helper()
	p, err := NewPlan(paths)
	require.NoError(t, err)
	out := make([]Value, len(paths))
	if err := NewReader(p, Limits{}).Read([]byte(doc), out); err != nil {
		return nil, err
	}
	got := make([]string, len(out))
	for i, v := range out {
		got[i] = fmt.Sprintf("%s %s", kindNames[v.Kind], v.AppendText(nil))
	}
	return got, nil
}

var kindNames = [...]string{"missing", "null", "false", "true", "number", "string", "array", "object"}

func TestReadTakesPlannedValues(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		paths     []string
		want      []string
	}{
		{"kinds", ` {"n":null,"f":false,"t":true,"i":-1.5e+3,"s":"x","a":[1, {"b":2}],"o":{"p":[]}, "z" : 0 } `,
			[]string{"n", "f", "t", "i", "s", "a", "o", "z", "none"},
			[]string{"null null", "false false", "true true", "number -1.5e+3", "string x", `array [1, {"b":2}]`, `object {"p":[]}`, "number 0", "missing "}},
		{"empty", `{}`, []string{"a"}, []string{"missing "}},
		{"no paths", `{"a":1}`, nil, []string{}},
		{"nested", `{"a":{"x":[0],"b":{"c":7,"d":8}}}`, []string{"a.b.c", "a.b.d", "a.b.e", "a.b", "b"},
			[]string{"number 7", "number 8", "missing ", `object {"c":7,"d":8}`, "missing "}},
		{"path through something else", `{"a":"x","b":[{"c":1}],"d":null}`, []string{"a.b", "b.c", "d.e", "d"},
			[]string{"missing ", "missing ", "missing ", "null null"}},
		{"flat name after nested wins", `{"a":{"b":1},"a.b":2}`, []string{"a.b"}, []string{"number 2"}},
		{"flat name before nested wins", `{"a.b":2,"a":{"b":1}}`, []string{"a.b"}, []string{"number 2"}},
		{"flat null wins", `{"a.b":null,"a":{"b":1}}`, []string{"a.b"}, []string{"null null"}},
		{"flat name only at the top", `{"a":{"b.c":1}}`, []string{"a.b.c"}, []string{"missing "}},
		{"same path twice", `{"a":{"b":1},"c":2}`, []string{"c", "a.b", "c", "a.b"}, []string{"number 2", "number 1", "number 2", "number 1"}},
		{"escaped names", `{"\u0061b\"c":1,"caf\u00e9":2,"\ud83d\ude00":{"k\/":3}}`, []string{`ab"c`, "café", "😀.k/"},
			[]string{"number 1", "number 2", "number 3"}},
		{"empty name", `{"":1,"a":{"":2}}`, []string{"a.", ".x"}, []string{"number 2", "missing "}},
		{"unplanned twice is not noticed", `{"x":1,"x":2,"a":3}`, []string{"a"}, []string{"number 3"}},
		{"twice in different objects", `{"a":1,"b":{"a":2},"c":{"a":3}}`, []string{"a", "b.a", "c.a"}, []string{"number 1", "number 2", "number 3"}},
		{"escapes in values", `{"s":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\u0000."}`, []string{"s"}, []string{"string \"\\/\b\f\n\r\té😀\x00."}},
		{"unicode in values", `{"s":"zażółć gęślą jaźń 日本語 😀"}`, []string{"s"}, []string{"string zażółć gęślą jaźń 日本語 😀"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := read(t, c.doc, c.paths...)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestReadSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ doc, want string }{
		{``, "invalid JSON at byte 0: empty document"},
		{"\n ", "invalid JSON at byte 2: empty document"},
		{`[1]`, "invalid JSON at byte 0: the document must be an object, found \"[\""},
		{`{"a":1`, "invalid JSON at byte 6: unexpected end of the document"},
		{`{"a":1} x`, "invalid JSON at byte 8: unexpected data after the object, found \"x\""},
		{`{"a" 1}`, "invalid JSON at byte 5: expected ':' after the field name, found \"1\""},
		{`{"a":1,}`, "invalid JSON at byte 7: expected a field name in double quotes, found \"}\""},
		{`{"a":01}`, "invalid JSON at byte 6: expected ',' or '}', found \"1\""},
		{`{"a":-}`, "invalid JSON at byte 6, field \"a\": invalid number, found \"}\""},
		{`{"a":}`, "invalid JSON at byte 5, field \"a\": expected a value, found \"}\""},
		{`{"a":nul}`, "invalid JSON at byte 5, field \"a\": expected true, false or null"},
		{`{"a":"\x"}`, "invalid JSON at byte 6, field \"a\": invalid escape sequence in a string"},
		{`{"a":"\ud800"}`, "invalid JSON at byte 6, field \"a\": lone surrogate in a string"},
		{"{\"a\":\"\x80\"}", "invalid JSON at byte 6, field \"a\": invalid UTF-8, found byte 0x80"},
		{"{\"a\":\"\n\"}", "invalid JSON at byte 6, field \"a\": unescaped control character in a string, found \"\\n\""},
		{`{"x":[1 2]}`, "invalid JSON at byte 8: expected ',' or ']', found \"2\""},
		{`{"n":{"b":"\q"}}`, "invalid JSON at byte 11, field \"n.b\": invalid escape sequence in a string"},
		{`{"a":1,"a":2}`, "invalid JSON at byte 7, field \"a\": duplicate field \"a\""},
		{`{"a":1,"\u0061":2}`, "invalid JSON at byte 7, field \"a\": duplicate field \"a\""},
		{`{"n":{"b":1,"b":1}}`, "invalid JSON at byte 12, field \"n.b\": duplicate field \"n.b\""},
		{`{"n":{"b":1},"n":{}}`, "invalid JSON at byte 13, field \"n\": duplicate field \"n\""},
		{`{"n.b":1,"n.b":1}`, "invalid JSON at byte 9, field \"n.b\": duplicate field \"n.b\""},
	} {
		_, err := read(t, c.doc, "a", "n.b")
		var e *Error
		require.ErrorAs(t, err, &e, c.doc)
		require.Equal(t, c.want, err.Error(), c.doc)
	}
}

func TestNewPlanRefusesPathsThatMatchNothing(t *testing.T) {
	for _, path := range []string{"", "a\xff"} {
		_, err := NewPlan([]string{"ok", path})
		require.Error(t, err)
	}
}

func TestReaderIsReusable(t *testing.T) {
	p, err := NewPlan([]string{"a", "b.c"})
	require.NoError(t, err)
	r, out := NewReader(p, Limits{}), make([]Value, 2)
	require.NoError(t, r.Read([]byte(`{"a":1,"b":{"c":2}}`), out))
	require.Error(t, r.Read([]byte(`{"a":1,"b":{"c":2`), out))
	require.NoError(t, r.Read([]byte(`{"b":{"c":3}}`), out))
	require.Equal(t, Missing, out[0].Kind)
	require.Equal(t, "3", string(out[1].Raw))
}

func TestLimits(t *testing.T) {
	nested := func(open, close string, levels int) string {
		return `{"u":` + strings.Repeat(open, levels-1) + "0" + strings.Repeat(close, levels-1) + `}`
	}
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":%d`, i, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	for _, c := range []struct {
		name, doc, path string
		limits          Limits
		want            string
	}{
		{"arrays at the limit", nested("[", "]", 128), "u", Limits{}, ""},
		{"arrays beyond", nested("[", "]", 129), "u", Limits{}, "nested deeper than 128 levels"},
		{"objects at the limit, unplanned", nested(`{"a":`, "}", 128), "x", Limits{}, ""},
		{"objects beyond, unplanned", nested(`{"a":`, "}", 129), "x", Limits{}, "nested deeper than 128 levels"},
		{"planned objects beyond", nested(`{"a":`, "}", 5), "u.a.a.a.a.a", Limits{Depth: 4}, "nested deeper than 4 levels"},
		{"mixed", nested(`[{"a":`, "}]", 500), "u", Limits{Depth: 999}, ""},
		{"mixed beyond", nested(`[{"a":`, "}]", 500), "u", Limits{Depth: 998}, "nested deeper than 998 levels"},
		{"hostile depth", `{"u":` + strings.Repeat("[", 1_000_000), "u", Limits{Depth: 10_000}, "nested deeper than 10000 levels"},
		{"deep on request", nested("[", "]", 100_000), "u", Limits{Depth: 100_000}, ""},
		{"keys at the limit", keys(100_000), "k99999", Limits{}, ""},
		{"keys beyond", keys(100_001), "k99999", Limits{}, "more than 100000 field names"},
		{"keys inside a skipped value", `{"u":[{"a":1},{"a":2}]}`, "x", Limits{Keys: 2}, "more than 2 field names"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := NewPlan([]string{c.path})
			require.NoError(t, err)
			err = NewReader(p, c.limits).Read([]byte(c.doc), make([]Value, 1))
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, c.want, e.Reason)
		})
	}
}

func TestLargeDocuments(t *testing.T) {
	const unit = "żółw \\n \\ud83d\\ude00 plain text "
	text := strings.Repeat(unit, 40_000)
	doc := `{"before":[` + strings.Repeat(`"`+strings.Repeat(unit, 90)+`",`, 300) + `0],"s":"` + text + `","last":9007199254740993}`
	require.Greater(t, len(doc), 2<<20)
	got, err := read(t, doc, "s", "last")
	require.NoError(t, err)
	want := strings.Repeat("żółw \n 😀 plain text ", 40_000)
	require.True(t, got[0] == "string "+want)
	require.Equal(t, "number 9007199254740993", got[1])
}

func TestManyPaths(t *testing.T) {
	var paths []string
	var doc strings.Builder
	for i := range 3000 {
		paths = append(paths, fmt.Sprintf("a_common_prefix_%04d_and_suffix", i))
		fmt.Fprintf(&doc, `,"%s":%d`, paths[i], i)
	}
	got, err := read(t, "{"+doc.String()[1:]+"}", paths...)
	require.NoError(t, err)
	for i := range got {
		require.Equal(t, fmt.Sprintf("number %d", i), got[i])
	}
}

// The order of the fields is guessed from the documents before: whatever comes, the guess must not
// change what is read.
func TestGuessesChangeNothing(t *testing.T) {
	paths := []string{"a", "ab", "n.a", "n.b", `q"`, `c\nd`, "é", "last"}
	p, err := NewPlan(paths)
	require.NoError(t, err)
	r, out, fresh := NewReader(p, Limits{}), make([]Value, len(paths)), make([]Value, len(paths))
	for _, doc := range []string{
		`{"a":1,"ab":2,"n":{"a":3,"b":4},"q\"":5,"c\\nd":6,"é":7,"last":8}`,
		`{"a":1,"ab":2,"n":{"a":3,"b":4},"q\"":5,"c\\nd":6,"é":7,"last":8}`,
		`{"a" :1, "ab": 2,"n":{"b":3,"a":4},"q"":5}`,
		`{"q\"":5,"c\nd":6}`,
		`{"a":1,"q":0,"x":{"a":1},"ab":2,"n":{"x":0,"a":3},"c\nd":6,"\u00e9":7}`,
		`{"last":8,"é":7,"n":{},"ab":2,"a":1}`,
		`{"last":8,"é":7,"n":{},"ab":2,"a":1,"last":8}`,
		`{"a":1,"a":1}`,
		`{"a":1,"ab":2,"a":3}`,
		`{"a":1,"ab`,
		`{"a":1,"ab"`,
		`{"a":1,"ab":`,
		`{"a":1,ab":2}`,
		`{"a":1,"ab":2,"n":{"a":3,"b":4},"q\"":5,"c\\nd":6,"é":7,"last":8}`,
	} {
		got, want := r.Read([]byte(doc), out), NewReader(p, Limits{}).Read([]byte(doc), fresh)
		require.Equal(t, want, got, doc)
		if want == nil {
			require.Equal(t, fresh, out, doc)
		}
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	p, err := NewPlan([]string{"id", "user.name", "tags"})
	require.NoError(t, err)
	r, out := NewReader(p, Limits{}), make([]Value, 3)
	doc := []byte(`{"id":7,"us\u0065r":{"name":"caf\u00e9","x":[[{}]]},"tags":["a","b"]}`)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := r.Read(doc, out); err != nil {
			panic(err)
		}
	}))
}
