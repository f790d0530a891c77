package spec

import (
	"fmt"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// checkShape finds what protoyaml reads without a word and a user would not want: a key written
// twice (of which only one counts, or both, by its type) and null where a text is expected (which it
// reads as the text "null").
func checkShape(name string, node *yaml.Node, message protoreflect.MessageDescriptor) []error {
	s := shape{name: name}
	s.message(node, message)
	return s.errors
}

type shape struct {
	name   string
	errors []error
}

func (s *shape) report(node *yaml.Node, format string, args ...any) {
	s.errors = append(s.errors, fmt.Errorf("%s:%d:%d %w", s.name, node.Line, node.Column, fmt.Errorf(format, args...)))
}

func (s *shape) message(node *yaml.Node, message protoreflect.MessageDescriptor) {
	if node.Kind != yaml.MappingNode {
		return // protoyaml reports it
	}
	seen := map[protoreflect.FieldNumber]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field := message.Fields().ByJSONName(key.Value)
		if field == nil {
			field = message.Fields().ByTextName(key.Value)
		}
		if field == nil {
			continue // protoyaml reports it
		}
		if first := seen[field.Number()]; first != nil {
			s.report(key, "key %q again; it is already on line %d: keep one", key.Value, first.Line)
			continue
		}
		seen[field.Number()] = key
		s.field(value, field)
	}
}

func (s *shape) field(value *yaml.Node, field protoreflect.FieldDescriptor) {
	switch {
	case field.IsMap():
		seen := map[string]*yaml.Node{}
		for i := 0; value.Kind == yaml.MappingNode && i+1 < len(value.Content); i += 2 {
			key := value.Content[i]
			if first := seen[key.Value]; first != nil {
				s.report(key, "key %q again; it is already on line %d: keep one", key.Value, first.Line)
			}
			seen[key.Value] = key
			if of := field.MapValue().Message(); of != nil {
				s.message(value.Content[i+1], of)
			} else {
				s.scalar(value.Content[i+1])
			}
		}
	case field.IsList() && value.Kind == yaml.SequenceNode:
		for _, item := range value.Content {
			if field.Message() != nil {
				s.message(item, field.Message())
			} else {
				s.scalar(item)
			}
		}
	case field.IsList():
	case field.Message() != nil:
		s.message(value, field.Message())
	default:
		s.scalar(value)
	}
}

func (s *shape) scalar(value *yaml.Node) {
	if value.Kind == yaml.ScalarNode && value.Tag == "!!null" && value.Value != "" {
		s.report(value, "%s is not a value here: leave the key out, or write the text in quotes", value.Value)
	}
}
