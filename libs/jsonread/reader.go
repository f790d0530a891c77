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
