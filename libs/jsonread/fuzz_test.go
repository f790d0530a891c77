package jsonread

import (
	"bytes"
	"encoding/json"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// field is a field of an object as encoding/json sees it.
type field struct {
	name string
	raw  json.RawMessage
}

func fieldsOf(t *testing.T, object []byte) (fields []field) {
	d := json.NewDecoder(bytes.NewReader(object))
	_, err := d.Token()
	require.NoError(t, err)
	for d.More() {
		name, err := d.Token()
		require.NoError(t, err)
		f := field{name: name.(string)}
		require.NoError(t, d.Decode(&f.raw))
		fields = append(fields, f)
	}
	return fields
}

// expected finds the values of a, b, a.b by encoding/json, and whether a planned field is twice there.
func expected(t *testing.T, doc []byte) (want map[string]json.RawMessage, duplicate bool) {
	want = make(map[string]json.RawMessage)
	seen := make(map[string]bool)
	var flat bool
	for _, f := range fieldsOf(t, doc) {
		if f.name != "a" && f.name != "é" && f.name != "a.b" {
			continue
		}
		if seen[f.name] {
			return nil, true
		}
		seen[f.name] = true
		want[f.name] = f.raw
		flat = flat || f.name == "a.b"
	}
	if a := want["a"]; len(a) > 0 && a[0] == '{' {
		found := false
		for _, f := range fieldsOf(t, a) {
			if f.name != "b" {
				continue
			}
			if found {
				return nil, true
			}
			if found = true; !flat {
				want["a.b"] = f.raw
			}
		}
	}
	return want, false
}

func FuzzRead(f *testing.F) {
	for _, file := range []string{"values_accept.txt", "values_reject.txt"} {
		for _, value := range corpus(f, file) {
			f.Add([]byte(`{"a":` + value + `,"x":{"b":` + value + `}}`))
			f.Add([]byte(`{"a":{"b":` + value + `},"\u00e9":[` + value + `]}`))
		}
	}
	for _, file := range []string{"event-200b.json", "event-unicode.json"} {
		doc, err := os.ReadFile("testdata/" + file)
		require.NoError(f, err)
		f.Add(doc)
	}
	paths := []string{"a", "é", "a.b"}
	p, err := NewPlan(paths)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, doc []byte) {
		if bytes.Count(doc, []byte("["))+bytes.Count(doc, []byte("{")) > 5000 {
			return // encoding/json has a depth limit of its own
		}
		out := make([]Value, len(paths))
		r := NewReader(p, Limits{Depth: 10_000})
		_ = r.Read(doc, out) // so that the next one goes by guesses
		err := r.Read(doc, out)
		if !valid(doc) {
			require.Error(t, err)
			return
		}
		want, duplicate := expected(t, doc)
		if duplicate {
			require.ErrorContains(t, err, "duplicate field")
			return
		}
		require.NoError(t, err)
		for i, path := range paths {
			raw, there := want[path]
			require.Equal(t, there, out[i].Kind != Missing, path)
			if out[i].Kind != String {
				require.Equal(t, string(raw), string(out[i].Raw), path)
				walk(t, out[i])
				continue
			}
			var text string
			require.NoError(t, json.Unmarshal(raw, &text))
			require.Equal(t, text, string(out[i].AppendText(nil)), path)
			require.Equal(t, bytes.ContainsRune(raw, '\\'), out[i].Escaped, path)
		}
	})
}

// walk compares Elements and Fields with encoding/json, at all levels.
func walk(t *testing.T, v Value) {
	switch v.Kind {
	case Array:
		var want []json.RawMessage
		require.NoError(t, json.Unmarshal(v.Raw, &want))
		n := 0
		require.NoError(t, Elements(v.Raw, func(e Value) error {
			requireSame(t, want[n], e)
			n++
			walk(t, e)
			return nil
		}))
		require.Len(t, want, n)
	case Object:
		want := fieldsOf(t, v.Raw)
		n := 0
		require.NoError(t, Fields(v.Raw, func(key []byte, e Value) error {
			require.Equal(t, want[n].name, string(key))
			requireSame(t, want[n].raw, e)
			n++
			walk(t, e)
			return nil
		}))
		require.Len(t, want, n)
	}
}

func requireSame(t *testing.T, raw json.RawMessage, v Value) {
	got := string(v.Raw)
	if v.Kind == String {
		got = `"` + got + `"`
	}
	require.Equal(t, string(raw), got)
}

func FuzzIterate(f *testing.F) {
	for _, file := range []string{"values_accept.txt", "values_reject.txt"} {
		for _, value := range corpus(f, file) {
			f.Add([]byte(`[` + value + `]`))
			f.Add([]byte(`{"k":` + value + `}`))
		}
	}
	// Whatever the bytes, the walks end, and end within them.
	f.Fuzz(func(t *testing.T, raw []byte) {
		size := 0
		_ = Elements(raw, func(v Value) error { size += len(v.Raw); return nil })
		require.LessOrEqual(t, size, len(raw))
		size = 0
		_ = Fields(raw, func(key []byte, v Value) error { size += len(v.Raw); return nil })
		require.LessOrEqual(t, size, len(raw))
	})
}

func FuzzCanonical(f *testing.F) {
	for _, value := range corpus(f, "values_accept.txt") {
		f.Add(value, value)
	}
	for _, c := range canonicalCases {
		f.Add(c.a, c.b)
	}
	p, err := NewPlan([]string{"v"})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, a, b string) {
		out := make([]Value, 1)
		canonical := func(value string) (string, any, bool) {
			doc := []byte(`{"v":` + value + `}`)
			if NewReader(p, Limits{}).Read(doc, out) != nil || len(fieldsOf(t, doc)) != 1 {
				return "", nil, false
			}
			c := string(out[0].AppendCanonical(nil))
			require.LessOrEqual(t, len(c), 2*len(value)+24)
			meaning, ok := meaningOf(t, []byte(value))
			return c, meaning, ok
		}
		ca, ma, ok := canonical(a)
		if !ok {
			return
		}
		cb, mb, ok := canonical(b)
		if !ok {
			return
		}
		require.Equal(t, ma == mb, ca == cb, "%s against %s: %q, %q", a, b, ca, cb)
		if ca != cb { // self-delimiting: neither begins the other
			require.False(t, strings.HasPrefix(ca, cb) || strings.HasPrefix(cb, ca))
		}
	})
}

// meaningOf is an independent canonical form, by encoding/json and math/big. False for what it is not
// made for: huge exponents, fields that occur twice.
func meaningOf(t *testing.T, raw []byte) (any, bool) {
	raw = bytes.TrimSpace(raw)
	switch raw[0] {
	case '{':
		parts := make(map[string]any)
		fields := fieldsOf(t, raw)
		for _, f := range fields {
			m, ok := meaningOf(t, f.raw)
			if !ok {
				return nil, false
			}
			parts[f.name] = m
		}
		text, err := json.Marshal(parts)
		require.NoError(t, err)
		return "o" + string(text), len(parts) == len(fields)
	case '[':
		var elements []json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &elements))
		parts := make([]any, len(elements))
		for i, e := range elements {
			m, ok := meaningOf(t, e)
			if !ok {
				return nil, false
			}
			parts[i] = m
		}
		text, err := json.Marshal(parts)
		require.NoError(t, err)
		return "a" + string(text), true
	case '"':
		var s string
		require.NoError(t, json.Unmarshal(raw, &s))
		return "s" + s, true
	case 't', 'f', 'n':
		return string(raw), true
	}
	if e := bytes.IndexAny(raw, "eE"); e >= 0 && len(raw)-e > 5 {
		return nil, false
	}
	r, ok := new(big.Rat).SetString(string(raw))
	require.True(t, ok)
	return "d" + r.RatString(), true
}
