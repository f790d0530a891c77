package grpcurl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// example is a block of commands with the answer that the page shows for it.
type example struct {
	line     int    // of the page
	commands string // for bash
	kind     string // of the answer: text, json, or nothing
	answer   string
}

// parse returns the page's examples, and the commands of its block "sh setup" apart.
func parse(page string) (setup string, examples []example, err error) {
	var kind string
	var block strings.Builder
	inside := false
	for n, text := range slices.Collect(strings.Lines(page)) {
		fence, isFence := strings.CutPrefix(strings.TrimRight(text, "\n"), "```")
		switch {
		case isFence && !inside:
			inside, kind = true, fence
			block.Reset()
		case isFence:
			inside = false
			switch kind {
			case "sh setup":
				setup += block.String()
			case "sh":
				examples = append(examples, example{line: n + 1, commands: block.String()})
			case "text", "json":
				if len(examples) == 0 || examples[len(examples)-1].kind != "" {
					return "", nil, fmt.Errorf("line %d: an answer without commands", n+1)
				}
				examples[len(examples)-1].kind, examples[len(examples)-1].answer = kind, block.String()
			default:
				return "", nil, fmt.Errorf("line %d: a block of kind %q", n+1, kind)
			}
		case inside:
			block.WriteString(text)
		}
	}
	if inside {
		return "", nil, errors.New("a block without an end")
	}
	return setup, examples, nil
}

// compare returns nil when got is an answer of the form that e shows.
func (e example) compare(got string) error {
	switch e.kind {
	case "text":
		if strings.TrimSpace(e.answer) != strings.TrimSpace(got) {
			return fmt.Errorf("want\n%s", e.answer)
		}
		return nil
	case "json":
		want, err := documents(e.answer)
		if err != nil {
			return fmt.Errorf("the page: %w", err)
		}
		have, err := documents(got)
		if err != nil {
			return err
		}
		// A stream may send more messages than the page shows, each of a form that it shows.
		if len(have) < len(want) {
			return fmt.Errorf("%d messages, want %d", len(have), len(want))
		}
		for i, h := range have {
			if err := anyForm(want, h); err != nil {
				return fmt.Errorf("message %d: %w", i+1, err)
			}
		}
		for i, w := range want {
			if !slices.ContainsFunc(have, func(h any) bool { return sameForm(w, h) == nil }) {
				return fmt.Errorf("nothing is of the form of the page's message %d", i+1)
			}
		}
		return nil
	}
	return nil
}

// anyForm returns nil when got is of one of the forms.
func anyForm(want []any, got any) error {
	var errs []error
	for _, w := range want {
		err := sameForm(w, got)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func documents(s string) ([]any, error) {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	var all []any
	for {
		var v any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		all = append(all, v)
	}
}

// sameForm: every field that want has is in got, of the same type. Some element of got's list must be of
// the form of each element of want's. What is fixed must be equal.
func sameForm(want, got any) error {
	if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) {
		return fmt.Errorf("%T, want %T", got, want)
	}
	switch w := want.(type) {
	case map[string]any:
		g := got.(map[string]any)
		for name, value := range w {
			field, ok := g[name]
			if !ok {
				return fmt.Errorf("no field %q", name)
			}
			if err := sameForm(value, field); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	case []any:
		g := got.([]any)
		for _, wanted := range w {
			var last error
			if !slices.ContainsFunc(g, func(have any) bool { last = sameForm(wanted, have); return last == nil }) {
				return fmt.Errorf("none of %d elements is of this form: %w", len(g), last)
			}
		}
	case string:
		if fixed(w) && w != got {
			return fmt.Errorf("%q, want %q", got, w)
		}
	}
	return nil
}

// fixed are words whose value is part of the form: enums, and names that the page itself gives.
func fixed(s string) bool {
	enum := len(s) > 1 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
	return enum || slices.Contains([]string{"clicks", "ingest", "dedup", "sink", "click_id", "MergeTree", "0.200s"}, s)
}
