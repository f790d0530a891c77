package jsonread

// Limits bounds what a document may cost. Zero fields take the defaults.
type Limits struct {
	// Depth is the number of levels that objects and arrays may be nested, the document itself
	// being the first. Default 128.
	Depth int
	// Keys is the number of field names in the whole document. Default 100000.
	Keys int
}

// The defaults of Limits.
const (
	DefaultDepth = 128
	DefaultKeys  = 100_000
)

// Reader reads documents by a plan. It is reusable, not concurrent.
type Reader struct {
	plan   *Plan
	limits Limits
	// seen has a bit for every entry of the plan that the document has shown.
	seen []uint64
	// nesting has a bit for every open level that is not on the plan: 1 = object.
	nesting []uint64
	// next guesses the field that comes after an entry's, or first in a node's object, where it was
	// in the last documents: the documents of a topic tend to have one order. Entries first,
	// then nodes; -1: no guess. Fields that are not planned are left out.
	next []int32
	keys int
	out  []Value
	// failed is the entry that the fault of the document belongs to, -1 when none.
	failed    int32
	unescaped []byte // a field name
}

// NewReader returns a reader for documents by p.
func NewReader(p *Plan, l Limits) *Reader {
	if l.Depth <= 0 {
		l.Depth = DefaultDepth
	}
	if l.Keys <= 0 {
		l.Keys = DefaultKeys
	}
	r := &Reader{
		plan:    p,
		limits:  l,
		seen:    make([]uint64, (len(p.entries)+63)/64),
		nesting: make([]uint64, l.Depth/64+1),
		next:    make([]int32, len(p.entries)+int(p.nodes)),
	}
	for i := range r.next {
		r.next[i] = -1
	}
	return r
}

// Read checks doc and sets out[i] to the value at paths[i] of the plan; Missing when there is none,
// which is also so when the path leads through something that is not an object. out must be as
// long as the paths. The values share doc's memory. The error is an *Error; out is then undefined.
func (r *Reader) Read(doc []byte, out []Value) error {
	out = out[:len(r.plan.paths)]
	clear(out)
	clear(r.seen)
	r.out, r.keys, r.failed = out, r.limits.Keys, -1
	at, bad := r.document(doc)
	r.out = nil
	if bad == fine {
		return nil
	}
	field := ""
	if r.failed >= 0 {
		field = r.plan.entries[r.failed].path
	}
	return &Error{Field: field, Offset: at, Reason: bad.reason(doc, at, r.limits, field)}
}

func (r *Reader) document(b []byte) (int, fault) {
	i := skipSpace(b, 0)
	if i >= len(b) {
		return i, badEmpty
	}
	if b[i] != '{' {
		return i, badTop
	}
	i, bad := r.object(b, i, &r.plan.root, 1)
	if bad != fine {
		return i, bad
	}
	if i = skipSpace(b, i); i < len(b) {
		return i, badTrailing
	}
	return i, fine
}

// object reads the object that begins at b[i] and what the plan wants of it. It recurs for objects
// on the plan only, so that the plan, not the document, bounds the stack.
func (r *Reader) object(b []byte, i int, n *node, depth int) (int, fault) {
	if depth > r.limits.Depth {
		return i, badDepth
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1, fine
	}
	before := int32(len(r.plan.entries)) + n.number
	for {
		start := i
		if r.keys--; r.keys < 0 {
			return i, badKeys
		}
		id := r.guess(b, i, before)
		var bad fault
		if id >= 0 {
			i += 1 + len(r.plan.entries[id].literal)
		} else if i, id, bad = r.name(b, i, n); bad != fine {
			return i, bad
		}
		if id >= 0 {
			r.next[before] = id
			before = id
		}
		if i < len(b) && b[i] <= ' ' {
			i = skipSpace(b, i)
		}
		if id < 0 {
			i, bad = r.skip(b, i, depth)
		} else if word, bit := &r.seen[id>>6], uint64(1)<<(id&63); *word&bit != 0 {
			i, bad = start, badDuplicate
		} else {
			*word |= bit
			i, bad = r.planned(b, i, id, depth)
		}
		if bad != fine {
			if id >= 0 && r.failed < 0 {
				r.failed = id
			}
			return i, bad
		}

		if i < len(b) && b[i] <= ' ' {
			i = skipSpace(b, i)
		}
		if i >= len(b) {
			return i, badEnd
		}
		switch b[i] {
		case ',':
			if i++; i < len(b) && b[i] <= ' ' {
				i = skipSpace(b, i)
			}
		case '}':
			return i + 1, fine
		default:
			return i, badObject
		}
	}
}

// guess returns the entry that is expected after before if its name is what is at b[i]; else -1. It
// saves looking for the end of the name and looking it up.
func (r *Reader) guess(b []byte, i int, before int32) int32 {
	id := r.next[before]
	if id < 0 {
		return -1
	}
	literal := r.plan.entries[id].literal
	if end := i + 1 + len(literal); literal == "" || end > len(b) || b[i] != '"' || string(b[i+1:end]) != literal {
		return -1
	}
	return id
}

// name reads the field name at b[i] and its colon, and finds its entry in n, -1 when it has none.
func (r *Reader) name(b []byte, i int, n *node) (end int, id int32, bad fault) {
	if i >= len(b) {
		return i, -1, badEnd
	}
	if b[i] != '"' {
		return i, -1, badKey
	}
	start := i + 1
	i, escaped, bad := scanString(b, start)
	if bad != fine {
		return i, -1, bad
	}
	if escaped {
		r.unescaped = appendUnescaped(r.unescaped[:0], b[start:i])
		id = n.names.find(r.unescaped, 0, len(r.unescaped))
	} else {
		id = n.names.find(b, start, i)
	}
	if i++; i < len(b) && b[i] == ':' {
		return i + 1, id, fine
	}
	if i = skipSpace(b, i); i >= len(b) {
		return i, -1, badEnd
	}
	if b[i] != ':' {
		return i, -1, badColon
	}
	return i + 1, id, fine
}

// planned reads the value that begins at b[i] and puts it where the entry wants it.
func (r *Reader) planned(b []byte, i int, id int32, depth int) (int, fault) {
	if i >= len(b) {
		return i, badEnd
	}
	var v Value
	var bad fault
	var end int
	e := &r.plan.entries[id]
	switch c := b[i]; {
	case c == '"':
		i++
		if end, v.Escaped, bad = scanString(b, i); bad != fine {
			return end, bad
		}
		v.Kind, v.Raw = String, b[i:end:end]
		end++
	case c == '-' || c-'0' < 10:
		if end, bad = scanNumber(b, i); bad != fine {
			return end, bad
		}
		v.Kind, v.Raw = Number, b[i:end:end]
	case c == '{' || c == '[':
		if c == '{' && e.child != nil {
			end, bad = r.object(b, i, e.child, depth+1)
		} else {
			end, bad = r.skip(b, i, depth)
		}
		if bad != fine {
			return end, bad
		}
		v.Kind, v.Raw = Array, b[i:end:end]
		if c == '{' {
			v.Kind = Object
		}
	default:
		if end, v.Kind, bad = scanLiteral(b, i); bad != fine {
			return end, bad
		}
		v.Raw = b[i:end:end]
	}
	if e.flat >= 0 && r.seen[e.flat>>6]>>(e.flat&63)&1 != 0 {
		return end, fine
	}
	for _, out := range e.outs {
		r.out[out] = v
	}
	return end, fine
}
