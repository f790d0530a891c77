package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/jsonread"
	"sluice/libs/spec"
)

// fields is what a sample of events shows.
type fields struct {
	samples [][]byte
	// events is how many of the samples are JSON objects.
	events int
	// seen counts the events that have a value at a path, present also those that have null there.
	seen, present map[string]int
	// names are the fields of the events themselves, in the order in which they are first met.
	names []string
	// values are the values at each path, one for each event that has it.
	values map[string][][]byte
	// found is what each event has at each path, also where it has nothing; the values share the samples' memory.
	found map[string][]jsonread.Value
}

// maxNames bounds what is remembered of events that put data into field names.
const maxNames = 1000

// nowhere says why no type can be found for what is at a path.
func (f *fields) nowhere(path string) string {
	if f.present[path] > 0 {
		return "is null in every sampled event that has it"
	}
	return "is in no sampled event"
}

// look reads samples with the reader that the ingestor uses, so that the same fields are found.
func look(paths []string, samples [][]byte) (*fields, error) {
	f := &fields{samples: samples, seen: map[string]int{}, present: map[string]int{}, values: map[string][][]byte{}, found: map[string][]jsonread.Value{}}
	plan, err := jsonread.NewPlan(paths)
	if err != nil {
		return nil, err
	}
	reader := jsonread.NewReader(plan, jsonread.Limits{})
	out := make([]jsonread.Value, len(paths))
	known := map[string]bool{}
	for _, doc := range samples {
		if trimmed := bytes.TrimSpace(doc); len(trimmed) == 0 || trimmed[0] != '{' || reader.Read(doc, out) != nil {
			continue
		}
		f.events++
		f.keep(paths, out)
		for i, v := range out {
			if v.Kind != jsonread.Missing {
				f.present[paths[i]]++
			}
			if v.Kind != jsonread.Missing && v.Kind != jsonread.Null {
				f.seen[paths[i]]++
				f.values[paths[i]] = append(f.values[paths[i]], literal(v))
			}
		}
		var names map[string]json.RawMessage
		if json.Unmarshal(doc, &names) != nil {
			continue
		}
		var fresh []string
		for name := range names {
			if !known[name] && len(known) < maxNames {
				known[name] = true
				fresh = append(fresh, name)
			}
		}
		slices.Sort(fresh) // a map has no order
		f.names = append(f.names, fresh...)
	}
	return f, nil
}

// kinds are the JSON types of the values at a path, in words.
func (f *fields) kinds(path string) []string {
	var kinds []string
	for _, value := range f.values[path] {
		kind := "numbers"
		switch value[0] {
		case '"':
			kind = "strings"
		case 't', 'f':
			kind = "booleans"
		case '{':
			kind = "objects"
		case '[':
			kind = "arrays"
		}
		if !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// literal is the JSON text of a value.
func literal(v jsonread.Value) []byte {
	if v.Kind != jsonread.String {
		return slices.Clone(v.Raw)
	}
	return slices.Concat([]byte{'"'}, v.Raw, []byte{'"'})
}

// absent says that no event has a value at a path, in words; "" when some have one.
func (f *fields) absent(path string) string {
	_, _, metadata := spec.Metadata(path)
	switch {
	case path == "" || metadata || f.seen[path] > 0:
		return ""
	case f.present[path] > 0:
		return fmt.Sprintf("null in each of %d sampled events that have it", f.present[path])
	}
	return fmt.Sprintf("not in any of %d sampled events", f.events)
}

// fromOf is where a column's value comes from: as declared, else the field of its own name.
func fromOf(p *controlv1.Pipeline, column string) string {
	for _, c := range p.GetColumns() {
		if c.GetName() == column {
			return c.GetFrom()
		}
	}
	return column
}
