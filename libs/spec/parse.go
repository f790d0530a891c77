package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"

	controlv1 "sluice/gen/sluice/control/v1"
)

// maxSize is far above any specification that a person or a program would write.
const maxSize = 4 << 20

// Parse reads a specification in YAML or JSON. name stands before the line and column of each error;
// it is usually the file's name. All errors are reported at once. What the values mean is not
// checked: see Validate.
func Parse(name string, data []byte) (*controlv1.Pipeline, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("%s: %d bytes are more than a specification can have (%d)", name, len(data), maxSize)
	}
	data, err := plain(name, data)
	if err != nil {
		return nil, err
	}
	root, err := document(name, data)
	if err != nil {
		return nil, err
	}
	p := &controlv1.Pipeline{}
	shape := checkShape(name, root, p.ProtoReflect().Descriptor())
	// A key without a value at the very end has its value on the line after the last; protoyaml shows the line of what it refuses.
	if lastLine(root) > bytes.Count(data, []byte("\n"))+1 {
		data = append(bytes.Clone(data), '\n')
	}
	// The values come from protoyaml; checkShape only finds what protoyaml lets pass.
	err = protoyaml.UnmarshalOptions{Path: name, CustomUnmarshaler: durations{}}.Unmarshal(data, p)
	if err := errors.Join(append(shape, err)...); err != nil {
		return nil, &refusal{expected.ReplaceAllStringFunc(err.Error(), offered), err}
	}
	return p, nil
}

// refusal is an error of protoyaml in other words.
type refusal struct {
	text string
	err  error
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.err }

// expected is how protoyaml lists the values of an enumeration.
var expected = regexp.MustCompile(`expected one of \[[A-Z0-9_ ]+\]`)

// offered lists them without the one that stands for none.
func offered(text string) string {
	names := strings.Fields(strings.TrimSuffix(strings.TrimPrefix(text, "expected one of ["), "]"))
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_UNSPECIFIED") })
	return "expected one of " + strings.Join(names, ", ")
}

// document returns the root of the one document in data.
func document(name string, data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := decoder.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: the specification is empty", name)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	switch err := decoder.Decode(&more); {
	case err == nil:
		return nil, fmt.Errorf("%s:%d:%d a second document: keep one pipeline in a file", name, max(more.Line, 1), max(more.Column, 1))
	case !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" {
		return nil, fmt.Errorf("%s: the specification is empty", name)
	}
	return doc.Content[0], nil
}

func lastLine(node *yaml.Node) int {
	last := node.Line
	for _, n := range node.Content {
		last = max(last, lastLine(n))
	}
	return last
}

// plain makes the text such that YAML and protoyaml count its lines alike and JSON is YAML: it turns
// CR and CRLF into LF, tabs of JSON into spaces, and refuses the line separators of Unicode. Lines and
// columns stay where they are.
func plain(name string, data []byte) ([]byte, error) {
	isJSON := json.Valid(data)
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	if isJSON {
		// In valid JSON a bare tab is never inside a string.
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
		return plainJSON(data), nil
	}
	for n, line := range bytes.Split(data, []byte("\n")) {
		if at := bytes.IndexAny(line, "\u0085\u2028\u2029"); at >= 0 {
			return nil, fmt.Errorf("%s:%d:%d a line separator of Unicode: use a plain line break, or an escape within quotes",
				name, n+1, len([]rune(string(line[:at])))+1)
		}
	}
	return data, nil
}
