package jsonread

import (
	"encoding/json"
	"os"
	"testing"
)

// The documents: a small event of 5 fields, a usual one of 35, and one of prose that is not ASCII.
var benchDocs = []struct {
	name  string
	file  string
	paths []string
}{
	{"200B_5fields", "testdata/event-200b.json", []string{"event_id", "user_id", "name", "email", "created_at"}},
	{"1.5KB_35fields", "testdata/event-1500b.json", []string{
		"event_id", "user_id", "session_id", "tenant", "event_type", "created_at", "received_at", "name", "email", "phone",
		"country", "region", "city", "postcode", "street", "latitude", "longitude", "ip", "user_agent", "referrer",
		"url", "campaign", "medium", "source", "device", "os", "os_version", "browser", "browser_version", "screen_width",
		"screen_height", "price", "quantity", "currency", "is_new"}},
	{"1.5KB_5of35", "testdata/event-1500b.json", []string{"event_id", "user_id", "name", "email", "created_at"}},
	{"unicode", "testdata/event-unicode.json", []string{"event_id", "title", "text"}},
}

func BenchmarkRead(b *testing.B) {
	for _, d := range benchDocs {
		doc, err := os.ReadFile(d.file)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(d.name+"/jsonread", func(b *testing.B) {
			p, err := NewPlan(d.paths)
			if err != nil {
				b.Fatal(err)
			}
			r, out := NewReader(p, Limits{}), make([]Value, len(d.paths))
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Read(doc, out); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(d.name+"/encoding_json_Valid", func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			for b.Loop() {
				if !json.Valid(doc) {
					b.Fatal("invalid")
				}
			}
		})
		b.Run(d.name+"/encoding_json_Unmarshal", func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			b.ReportAllocs()
			for b.Loop() {
				var m map[string]json.RawMessage
				if err := json.Unmarshal(doc, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendCanonical(b *testing.B) {
	for _, doc := range []string{`"0192f3a4-7b1c-7def-8123-456789abcdef"`, `1234567890123`, `1234.50`, `{"b":1,"a":2}`} {
		b.Run(doc, func(b *testing.B) {
			v, _ := valueAt([]byte(doc), 0)
			var dst []byte
			for b.Loop() {
				dst = v.AppendCanonical(dst[:0])
			}
		})
	}
}
