package jsonread

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Plan is the set of paths that a Reader looks for. It is immutable and may be shared.
type Plan struct {
	paths   []string
	entries []entry
	root    node
	nodes   int32
}

// entry is a field that is looked for in one object of the document: the value at a path, an
// object on the way to one, or both. Invariant: each entry's object occurs at most once in a
// document (the reader refuses a planned field that occurs twice), so an entry is met at most once.
type entry struct {
	path string
	// literal is the field's name with quote and colon, as documents usually spell it. Empty when
	// the name cannot be in a document unescaped.
	literal string
	// outs are the indexes of the paths whose value this is.
	outs []int32
	// flat is the entry of the document's own field that is named like the whole path; it wins.
	// -1 when there is none.
	flat int32
	// child says what is looked for inside this field's object. Nil when nothing is.
	child *node
}

// node is what is looked for in one object.
type node struct {
	names table
	// number is the node's own, from 0.
	number int32
	// ids maps a name to its entry; used while the plan is made.
	ids map[string]int32
}

// NewPlan makes a plan of paths. A path a.b.c stands for field c of field b of field a, and as well
// for a field of the document that is itself named "a.b.c"; where there are both, the field with
// the exact name wins. The same path may be given more than once.
func NewPlan(paths []string) (*Plan, error) {
	p := &Plan{paths: slices.Clone(paths), nodes: 1}
	for i, path := range p.paths {
		switch {
		case path == "":
			return nil, errors.New("empty JSON path")
		case !utf8.ValidString(path):
			return nil, fmt.Errorf("JSON path %q is not valid UTF-8", path)
		}
		flat := p.entry(&p.root, path, path)
		p.entries[flat].outs = append(p.entries[flat].outs, int32(i))
		if !strings.Contains(path, ".") {
			continue
		}
		at, rest, done := &p.root, path, 0
		for {
			name, after, more := strings.Cut(rest, ".")
			done += len(name)
			id := p.entry(at, name, path[:done])
			if !more {
				p.entries[id].outs = append(p.entries[id].outs, int32(i))
				p.entries[id].flat = flat
				break
			}
			if p.entries[id].child == nil {
				p.entries[id].child = &node{number: p.nodes}
				p.nodes++
			}
			at, rest, done = p.entries[id].child, after, done+1
		}
	}
	p.root.seal()
	for i := range p.entries {
		if child := p.entries[i].child; child != nil {
			child.seal()
		}
	}
	return p, nil
}

// entry returns the entry of a name in n, made when it is new.
func (p *Plan) entry(n *node, name, path string) int32 {
	if id, ok := n.ids[name]; ok {
		return id
	}
	if n.ids == nil {
		n.ids = make(map[string]int32)
	}
	id := int32(len(p.entries))
	e := entry{path: path, flat: -1}
	if end, escaped, bad := scanString([]byte(name+`"`), 0); bad == fine && !escaped && end == len(name) {
		e.literal = name + `":`
	}
	p.entries = append(p.entries, e)
	n.ids[name] = id
	return id
}

func (n *node) seal() {
	n.names = newTable(n.ids)
	n.ids = nil
}
