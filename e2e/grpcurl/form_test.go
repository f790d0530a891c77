package grpcurl

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The comparison itself must be able to fail.
func TestCompare(t *testing.T) {
	for _, c := range []struct {
		kind, want, got, wrong string
	}{
		{"text", "a\nb\n", "a\nb", ""},
		{"text", "a\nb\n", "a\n", "want"},
		{"json", `{"id": "x", "n": 1}`, `{"id": "y", "n": 2, "more": true}`, ""},
		{"json", `{"id": "x"}`, `{}`, `no field "id"`},
		{"json", `{"n": 1}`, `{"n": "1"}`, "n: string"},
		{"json", `{"state": "RUNNING"}`, `{"state": "PAUSED"}`, `"PAUSED", want "RUNNING"`},
		{"json", `{"list": [{"stage": "dedup"}]}`, `{"list": [{"stage": "sink"}, {"stage": "dedup"}]}`, ""},
		{"json", `{"list": [{"stage": "dedup"}]}`, `{"list": [{"stage": "sink"}]}`, "none of 1"},
		{"json", `{"list": [{}]}`, `{"list": []}`, "none of 0"},
		{"json", "{}\n{\"a\": 1}", `{}`, "1 messages, want 2"},
		{"json", `{"a": 1}`, `{"a": 1} {"b": 1}`, `message 2: no field "a"`},
		{"json", `{"a": 1} {"b": 1}`, `{"a": 1} {"a": 2} {"b": 1}`, ""},
		{"json", `{"a": 1} {"b": 1}`, `{"a": 1} {"a": 2}`, "page's message 2"},
		{"json", `{}`, `ERROR`, "not JSON"},
	} {
		err := example{kind: c.kind, answer: c.want}.compare(c.got)
		if c.wrong == "" {
			require.NoError(t, err, "%s %s", c.want, c.got)
		} else {
			require.ErrorContains(t, err, c.wrong)
		}
	}
	_, _, err := parse("```json\n{}\n```\n")
	require.ErrorContains(t, err, "without commands")
	_, _, err = parse("```sh\nls\n")
	require.ErrorContains(t, err, "without an end")
}
