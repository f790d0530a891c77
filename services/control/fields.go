package control

import (
	"bytes"
	"encoding/json"
	"slices"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/jsonread"
	"sluice/libs/spec"
)

// fields is what a sample of events shows.
type fields struct {
	samples [][]byte
	// events is how many of the samples are JSON objects.
	events int
	// seen counts the events that have a value at a path.
	seen map[string]int
	// names are the fields of the events themselves, in the order in which they are first met.
	names []string
	// values are the values at each path, one for each event that has it.
	values map[string][][]byte
}

// maxNames bounds what is remembered of events that put data into field names.
const maxNames = 1000

// look reads samples with the reader that the ingestor uses, so that the same fields are found.
func look(paths []string, samples [][]byte) (*fields, error) {
	f := &fields{samples: samples, seen: map[string]int{}, values: map[string][][]byte{}}
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
		for i, v := range out {
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

// literal is the JSON text of a value.
func literal(v jsonread.Value) []byte {
	if v.Kind != jsonread.String {
		return slices.Clone(v.Raw)
	}
	return slices.Concat([]byte{'"'}, v.Raw, []byte{'"'})
}

// pathsOf are the JSON paths that a pipeline into the table reads, each once.
func pathsOf(p *controlv1.Pipeline, table *clickhouse.Table) []string {
	var paths []string
	add := func(path string) {
		if path == "" || slices.Contains(paths, path) {
			return
		}
		if _, _, metadata := spec.Metadata(path); !metadata {
			paths = append(paths, path)
		}
	}
	for _, key := range p.GetDedup().GetKey() {
		add(key)
	}
	add(p.GetDedup().GetVersion())
	add(p.GetDedup().GetTime())
	for _, c := range p.GetColumns() {
		add(c.GetFrom())
	}
	for _, c := range table.Columns {
		add(fromOf(p, c.Name))
	}
	return paths
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
