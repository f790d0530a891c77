package jsonread

// Kind is the type of a JSON value.
type Kind uint8

// The kinds. Missing is the zero value: the document has no such field.
const (
	Missing Kind = iota
	Null
	False
	True
	Number
	String
	Array
	Object
)

// Value is a JSON value inside the document that was read last. Its bytes are the
// document's own: they are valid until the document's memory is used anew.
type Value struct {
	Kind Kind
	// Escaped tells that a String holds escape sequences.
	Escaped bool
	// Raw is the literal text; for a String the bytes between the quotes.
	Raw []byte
}
