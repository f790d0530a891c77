package spec_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/spec"
)

// FuzzParse: no input makes the reader fall over; what it reads can be checked, defaulted and written,
// and reads back as the same; JSON means what protojson says it means.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		minimal, full, join, " ?  8", "", "{}", "id: a\r\nlanes: 2\r", "id: [", "a: &a [*a]", "? [a]\n: b", "- - -",
		`{"id":"\ud83d\ude00","lanes":1e1}`, `{"batch":{"maxDelay":"1.5s"}}`, "id: !!binary aGk=", "<<: {id: a}",
		"dedup: {window: 1d2h}", "dedup: {window: -1d}", "\"id\": \"a\\\n b\"", "id: |\n  a\n  b\n", "--- \n...\n--- a\n",
		"id: \u0085", "\ufeffid: a", "1: a\n6: 0x10\n", "lanes: null\nbatch: ~\n", "settings: {a: b}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := spec.Parse("f", data)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		if json.Valid(data) {
			want := &controlv1.Pipeline{}
			if protojson.Unmarshal(data, want) == nil {
				require.True(t, proto.Equal(want, p), "protojson: %v\nspec: %v", want, p)
			}
		}
		if err := spec.Validate(p); err != nil {
			require.NotEmpty(t, err.Error())
		}
		once := spec.WithDefaults(p)
		require.True(t, proto.Equal(once, spec.WithDefaults(once)), "defaults twice: %v", once)
		if spec.Validate(once) != nil {
			return // what is not valid need not be expressible
		}
		text, err := spec.Marshal(once)
		require.NoError(t, err)
		again, err := spec.Parse("again", text)
		require.NoError(t, err, "%s", text)
		require.True(t, proto.Equal(once, again), "%s", text)
	})
}
