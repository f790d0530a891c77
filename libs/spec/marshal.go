package spec

import (
	"bytes"
	"fmt"

	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Marshal writes a specification as YAML that Parse reads back as the same message.
func Marshal(p *controlv1.Pipeline) ([]byte, error) {
	data, err := protoyaml.MarshalOptions{UseProtoNames: true, Indent: 2}.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("write specification: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("write specification: %w", err)
	}
	if len(doc.Content) == 1 {
		readable(doc.Content[0], p.ProtoReflect())
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&doc); err != nil {
		return nil, fmt.Errorf("write specification: %w", err)
	}
	return out.Bytes(), nil
}

// readable writes durations as 24h, not 86400s, and 64-bit numbers without the quotes of protojson.
func readable(node *yaml.Node, message protoreflect.Message) {
	for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
		field := message.Descriptor().Fields().ByTextName(node.Content[i].Value)
		value := node.Content[i+1]
		switch {
		case field == nil:
		case field.IsMap():
			for n := 0; field.MapValue().Message() != nil && n+1 < len(value.Content); n += 2 {
				key := protoreflect.ValueOfString(value.Content[n].Value).MapKey()
				readable(value.Content[n+1], message.Get(field).Map().Get(key).Message())
			}
		case field.IsList():
			for n, item := range value.Content {
				if field.Message() != nil {
					readable(item, message.Get(field).List().Get(n).Message())
				}
			}
		case field.Kind() == protoreflect.Uint64Kind:
			value.Tag, value.Style = "!!int", 0
		case field.Message() != nil:
			sub := message.Get(field).Message()
			if d, ok := sub.Interface().(*durationpb.Duration); ok {
				value.SetString(formatDuration(d))
				continue
			}
			readable(value, sub)
		}
	}
}
