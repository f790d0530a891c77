// Package jsonread takes a few hundred known values out of a JSON object in one pass.
//
// Guaranteed: a document that Read accepts is valid by RFC 8259 from the first byte to the last
// (escapes, numbers and nesting included), its top level is an object, its text is strict UTF-8
// and its \u escapes hold no lone surrogate. Depth and number of keys are bounded by Limits.
// Numbers are never converted: a Value is the document's own bytes. A planned field that occurs
// twice in its object is an error. Read allocates nothing once a Reader is warm, unless it fails.
//
// Not guaranteed: a field that occurs twice and is not planned is not noticed, nor are fields that
// occur twice inside a planned value; strings are not normalised: "é" as one code point and as two
// are different.
//
// Elements and Fields walk a Value that Read has returned. They trust its syntax.
package jsonread
