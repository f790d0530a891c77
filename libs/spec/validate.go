package spec

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Validate checks a specification as far as that goes without the network: the rules in the protobuf
// definition and those that it cannot express. It takes a specification with or without its defaults.
// The error is an *Error with every problem in it.
func Validate(p *controlv1.Pipeline) error {
	if p == nil {
		return &Error{[]Problem{{What: "the specification is empty", Remedy: "it needs id, source and sink"}}}
	}
	problems, err := declared(p)
	if err != nil {
		return err
	}
	c := checks{problems: problems}
	c.kafka("source.kafka", p.GetSource().GetKafka())
	c.dedup("dedup", p.GetDedup())
	c.sources(p)
	c.join(p)
	c.clickhouse(p.GetSink().GetClickhouse())
	c.columns(p)
	c.durations("", p.ProtoReflect())
	if len(c.problems) > 0 {
		return &Error{c.problems}
	}
	return nil
}

// checks gathers problems.
type checks struct {
	problems []Problem
}

func (c *checks) add(field, value, what, remedy string) {
	c.problems = append(c.problems, Problem{field, value, what, remedy})
}

// declared runs the rules of the protobuf definition.
func declared(p *controlv1.Pipeline) ([]Problem, error) {
	err := protovalidate.Validate(p)
	var invalid *protovalidate.ValidationError
	switch {
	case err == nil:
		return nil, nil
	case !errors.As(err, &invalid):
		return nil, fmt.Errorf("check specification: %w", err)
	}
	problems := make([]Problem, 0, len(invalid.Violations))
	for _, v := range invalid.Violations {
		if v.Proto.GetRuleId() == "string.pattern" && v.FieldValue.String() == "" {
			continue // it is missing, which string.min_len says
		}
		problems = append(problems, problemOf(v))
	}
	// Those of a map's entries come in any order.
	slices.SortStableFunc(problems, func(a, b Problem) int { return strings.Compare(entry(a.Field), entry(b.Field)) })
	return problems, nil
}

func problemOf(v *protovalidate.Violation) Problem {
	field := entries.ReplaceAllString(protovalidate.FieldPathString(v.Proto.GetField()), "sources.$1")
	p := Problem{Field: field, Value: valueText(v), What: v.Proto.GetMessage(), Remedy: remedy(field)}
	switch rule := v.Proto.GetRuleId(); rule {
	case "required", "string.min_len", "repeated.min_items", "message.oneof":
		p.What = "is missing"
	case "enum.not_in", "enum.defined_only":
		if p.Value == "" || p.Value == "0" {
			p.Value, p.What = "", "is missing"
		} else {
			p.What = "is not known"
		}
	case "string.pattern":
		p.What = "has characters that it cannot have"
	case "string.max_len":
		p.What = fmt.Sprintf("is longer than %v characters", v.RuleValue.Interface())
	case "repeated.unique":
		p.What = "has an entry twice"
	case "string.uri":
		p.What = "is not a URL"
	case "uint32.lte", "uint64.lte":
		p.What = fmt.Sprintf("is more than %v", v.RuleValue.Interface())
	case "map.max_pairs":
		p.What = fmt.Sprintf("are more than %v", v.RuleValue.Interface())
	case "repeated.max_items":
		p.What = fmt.Sprintf("has more than %v entries", v.RuleValue.Interface())
	case "duration.gte_lte", "duration.gte", "duration.lte":
		p.What = "is out of bounds"
	}
	return p
}

func valueText(v *protovalidate.Violation) string {
	if !v.FieldValue.IsValid() {
		return ""
	}
	switch value := v.FieldValue.Interface().(type) {
	case protoreflect.Message:
		if d, ok := value.Interface().(*durationpb.Duration); ok {
			return formatDuration(d)
		}
		return ""
	case protoreflect.List, protoreflect.Map:
		return ""
	case protoreflect.EnumNumber:
		return fmt.Sprint(int32(value))
	default:
		return fmt.Sprint(value)
	}
}

// entries finds a source's entry as protovalidate writes it, where its name is one.
var entries = regexp.MustCompile(`^sources\["([a-z][a-z0-9_]*)"\]`)

// entry is the source that a field is in; "" when it is in none.
func entry(field string) string {
	rest, ok := strings.CutPrefix(field, "sources")
	if !ok {
		return ""
	}
	return rest
}

var index = regexp.MustCompile(`\[[^\]]*\]`)

// remedy says what a field should hold; the index of a list does not matter.
func remedy(field string) string {
	field = index.ReplaceAllString(field, "")
	// The fields of each source are those of the only one.
	if rest, ok := strings.CutPrefix(field, "sources."); ok {
		_, rest, _ = strings.Cut(rest, ".")
		if field = "source." + rest; strings.HasPrefix(rest, "dedup") {
			field = rest
		}
	}
	switch field {
	case "id":
		return "give a name of lower-case letters, digits and hyphens within, at most 63, such as user-events"
	case "sources":
		return "name two, such as sources: {orders: {kafka: {brokers: [host:9092], topic: orders}}, users: {kafka: {brokers: [host:9092], topic: users}}}; " +
			"a name has lower-case letters, digits and underscores, at most 32, a letter first"
	case "join":
		return "say how they are matched: join: {left: orders, right: users, on: [{left: user_id, right: id}], window: 1h}"
	case "join.left", "join.right":
		return "give the name of a source"
	case "join.on", "join.on.left", "join.on.right":
		return "list 1 to 16 pairs of fields that must be equal, such as on: [{left: user_id, right: id}]"
	case "join.window":
		return "say how far apart in time two rows may be, from 1ms to 45d, such as window: 1h"
	case "join.grace":
		return "from 0s to 45d; 10s is the default"
	case "join.wait":
		return "from 0s to 45d; 0s is the default"
	case "join.idle":
		return "from 1ms to 45d; 30s is the default"
	case "join.max_future":
		return "from 1ms to 876600h; 1h is the default"
	case "join.memory":
		return "at least 1 MiB; 256 MiB is the default"
	case "source":
		return "say where the events come from: source: {kafka: {brokers: [host:9092], topic: name}}"
	case "source.kafka":
		return "add kafka: {brokers: [host:9092], topic: name}"
	case "source.kafka.brokers":
		return "list some brokers of the cluster as host:port"
	case "source.kafka.topic":
		return "give the topic's name: letters, digits, dot, underscore and hyphen, at most 249"
	case "source.kafka.sasl.mechanism":
		return "give PLAIN, SCRAM_SHA_256, SCRAM_SHA_512, OAUTHBEARER or GSSAPI_KERBEROS"
	case "source.kafka.sasl.oauth.token_url":
		return "give the token endpoint as https://host/path"
	case "source.kafka.sasl.oauth.client_id":
		return "give the client's id"
	case "sink":
		return "say where the rows go: sink: {clickhouse: {addr: [host:9000], table: name}}"
	case "sink.clickhouse":
		return "add clickhouse: {addr: [host:9000], table: name}"
	case "sink.clickhouse.addr":
		return "list the server's addresses as host:port of the native protocol, usually port 9000"
	case "sink.clickhouse.table":
		return "give the table's name, or database.table"
	case "dedup.key":
		return "list 1 to 16 fields that together identify an event, each once, such as key: [event_id]"
	case "dedup.window":
		return "say how long a key is remembered, from 1ms to 45d, such as window: 24h"
	case "columns.name":
		return "give the name of the column in the table"
	case "lanes":
		return "1 to 256 lanes; 4 is the default"
	case "batch.rows":
		return "at most 10000000; 1000000 is the default"
	case "batch.bytes":
		return "at most 1073741824; 64 MiB is the default"
	case "batch.max_delay":
		return "from 10ms to 1h; 500ms is the default"
	}
	if isSecret(field) {
		return "say where the secret is: {env: NAME} or {file: PATH}"
	}
	return ""
}

func isSecret(field string) bool {
	for _, name := range []string{"password", "token", "client_secret"} {
		for _, tail := range []string{"", ".from", ".env", ".file"} {
			if strings.HasSuffix(field, "."+name+tail) {
				return true
			}
		}
	}
	return false
}
