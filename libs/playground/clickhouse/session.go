package clickhouse

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// session is one client's place in the engine: its current database, its temporary tables, its SETs.
type session struct {
	*link
	tag     string // marks the session's queries in system.processes
	changed bool   // the client changed settings of the session
}

// tagSetting carries the tag. It names entries of the query cache, which nothing here uses.
const tagSetting = "query_cache_tag"

// openSession connects to the engine and puts on the defaults of a server where those of the library differ.
func openSession(e *engine, tag string) (*session, error) {
	k, err := e.lib.open(e.dir)
	if err != nil {
		return nil, err
	}
	if _, err := k.query("SET implicit_select = 0, "+tagSetting+" = "+quoteText(tag), "Null"); err != nil {
		k.close()
		return nil, err
	}
	return &session{link: k, tag: tag}, nil
}

// ignored tells settings that must not reach the engine: they would change the bytes between it and this server, or are
// about the connection.
func ignored(name string) bool {
	switch name {
	case "output_format_native_write_json_as_string":
		return false
	case tagSetting, "send_logs_level", "send_logs_source_regexp":
		return true
	case "database_atomic_wait_for_drop_and_detach_synchronously": // would wait for ever, see parseStatement
		return true
	}
	return strings.HasPrefix(name, "output_format_native_") || strings.HasPrefix(name, "input_format_native_") ||
		strings.HasPrefix(name, "network_compression_") || name == "network_zstd_compression_level"
}

// apply puts a query's settings on; the function it returns takes them off again.
func (s *session) apply(settings []proto.Setting) (undo func() error, err error) {
	values := map[string]string{}
	optional := map[string]bool{}
	for _, set := range settings {
		if ignored(set.Key) {
			continue
		}
		value := set.Value
		if set.Custom { // as a literal
			value = unquote(value)
		}
		values[set.Key], optional[set.Key] = value, !set.Important
	}
	if len(values) == 0 {
		return func() error { return nil }, nil
	}
	before, err := s.before(values)
	if err != nil {
		return nil, err
	}
	if err := s.set(values); err != nil {
		if err = s.setEach(values, optional, err); err != nil {
			return nil, errors.Join(err, s.reset(values, before))
		}
	}
	return func() error { return s.reset(values, before) }, nil
}

func (s *session) set(values map[string]string) error {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s = %s", quoteName(name), quoteText(values[name]))
	}
	_, err := s.query("SET "+b.String(), "Null")
	return err
}

// setEach is for settings of which one is not known: that is an error only if the client calls it important.
func (s *session) setEach(values map[string]string, optional map[string]bool, cause error) error {
	const codeUnknownSetting = 115
	unknown := func(err error) bool {
		var e *exception
		return errors.As(err, &e) && e.code == codeUnknownSetting
	}
	if !unknown(cause) {
		return cause
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		err := s.set(map[string]string{name: values[name]})
		switch {
		case err == nil:
		case unknown(err) && optional[name]:
			delete(values, name)
		default:
			return err
		}
	}
	return nil
}

// before is what the settings were where that is not the default.
func (s *session) before(values map[string]string) (map[string]string, error) {
	out := map[string]string{}
	if _, base := values["implicit_select"]; !s.changed && !base {
		return out, nil
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, quoteText(name))
	}
	text, err := s.query("SELECT name, value FROM system.settings WHERE changed AND name IN ("+strings.Join(names, ", ")+")", "TabSeparated")
	if err != nil {
		return nil, fmt.Errorf("read the session's settings: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		out[name] = unquote("'" + value + "'")
	}
	return out, nil
}

func (s *session) reset(values, before map[string]string) error {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if _, known := before[name]; known {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quoteName(name) + " = DEFAULT")
	}
	if b.Len() > 0 {
		if _, err := s.query("SET "+b.String(), "Null"); err != nil {
			return fmt.Errorf("take a query's settings off again: %w", err)
		}
	}
	if len(before) > 0 {
		if err := s.set(before); err != nil {
			return fmt.Errorf("put the session's settings back: %w", err)
		}
	}
	return nil
}
