package spec

import (
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong with a specification.
type Problem struct {
	Field  string // path of the field: source.kafka.brokers[0]
	Value  string // what stands there; empty when nothing does
	What   string // what is wrong with it
	Remedy string // what to write instead
}

// String is "field: value: what is wrong: remedy", without the parts that are empty.
func (p Problem) String() string {
	parts := make([]string, 0, 4)
	for _, s := range []string{p.Field, clip(p.Value), p.What, p.Remedy} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// clip bounds a value in a message: a person needs its beginning only.
func clip(value string) string {
	const most = 80
	if len(value) <= most {
		return value
	}
	end := most
	for end > 0 && !utf8.RuneStart(value[end]) {
		end--
	}
	return value[:end] + "…"
}

// Error is everything that is wrong with a specification. It is never empty.
type Error struct {
	Problems []Problem
}

// Error lists the problems, one a line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}
