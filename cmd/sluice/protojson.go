package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// marshalJSON is the protobuf JSON mapping with the names of the .proto files, with every plain field
// present, and with one difference: 64-bit integers are numbers, not strings, since scripts add and
// compare them. They are written digit by digit; what reads them decides about precision.
func marshalJSON(m proto.Message) ([]byte, error) { return appendMessage(nil, m.ProtoReflect()) }

func appendMessage(b []byte, m protoreflect.Message) ([]byte, error) {
	if strings.HasPrefix(string(m.Descriptor().FullName()), "google.protobuf.") {
		// Timestamps and durations are strings; nothing else of that package is in our messages.
		text, err := protojson.Marshal(m.Interface())
		return append(b, text...), err
	}
	b = append(b, '{')
	first := true
	fields := m.Descriptor().Fields()
	var err error
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.HasPresence() && !m.Has(f) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = strconv.AppendQuote(b, string(f.Name()))
		b = append(b, ':')
		if b, err = appendField(b, f, m.Get(f)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.FullName(), err)
		}
	}
	return append(b, '}'), nil
}

func appendField(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	var err error
	switch {
	case f.IsList():
		b = append(b, '[')
		for i := range v.List().Len() {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, f, v.List().Get(i)); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case f.IsMap():
		type entry struct {
			key   string
			value protoreflect.Value
		}
		var entries []entry
		v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
			entries = append(entries, entry{k.String(), v})
			return true
		})
		slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
		b = append(b, '{')
		for i, e := range entries {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendString(b, e.key); err != nil {
				return nil, err
			}
			b = append(b, ':')
			if b, err = appendValue(b, f.MapValue(), e.value); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	default:
		return appendValue(b, f, v)
	}
}

func appendValue(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(b, v.Message())
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		return appendString(b, base64.StdEncoding.EncodeToString(v.Bytes()))
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool()), nil
	case protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			return strconv.AppendQuote(b, string(d.Name())), nil
		}
		return strconv.AppendInt(b, int64(v.Enum()), 10), nil
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		text, err := json.Marshal(v.Float())
		return append(b, text...), err
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	default:
		return strconv.AppendInt(b, v.Int(), 10), nil
	}
}

// appendString leaves <, > and & as they are: the output is not for HTML.
func appendString(b []byte, s string) ([]byte, error) {
	var sb strings.Builder
	enc := json.NewEncoder(&sb)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return nil, err
	}
	return append(b, strings.TrimSuffix(sb.String(), "\n")...), nil
}
