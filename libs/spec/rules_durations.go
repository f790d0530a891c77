package spec

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// durations checks that every duration is a whole number of milliseconds, in which all times are kept: 500us would be none.
func (c *checks) durations(at string, m protoreflect.Message) {
	before := len(c.problems)
	// Neither fields nor the entries of a map come in an order.
	defer func() {
		slices.SortFunc(c.problems[before:], func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
	}()
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := at + field.TextName()
		switch {
		case field.IsMap() && field.MapValue().Message() != nil:
			value.Map().Range(func(key protoreflect.MapKey, entry protoreflect.Value) bool {
				c.durations(name+"."+key.String()+".", entry.Message())
				return true
			})
		case field.IsList() || field.IsMap() || field.Message() == nil:
		default:
			if d, ok := value.Message().Interface().(*durationpb.Duration); ok {
				c.milliseconds(name, d)
			} else {
				c.durations(name+".", value.Message())
			}
		}
		return true
	})
}

func (c *checks) milliseconds(field string, d *durationpb.Duration) {
	span := d.AsDuration()
	if span%time.Millisecond == 0 || c.said(field) {
		return
	}
	c.add(field, formatDuration(d), "is not a whole number of milliseconds", "give at least 1ms, and no fractions of it")
}

// said tells that something is wrong with a field already.
func (c *checks) said(field string) bool {
	for _, p := range c.problems {
		if p.Field == field {
			return true
		}
	}
	return false
}
