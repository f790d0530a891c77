package native_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"sluice/libs/jsonread"
	"sluice/libs/native"
)

// read is the value of a JSON text as jsonread's Reader gives it; of "" it is a missing field.
func read(t require.TestingT, text string) jsonread.Value {
	plan, err := jsonread.NewPlan([]string{"v"})
	require.NoError(t, err)
	doc := "{}"
	if text != "" {
		doc = `{"v": ` + text + `}`
	}
	values := make([]jsonread.Value, 1)
	require.NoError(t, jsonread.NewReader(plan, jsonread.Limits{}).Read([]byte(doc), values), text)
	return values[0]
}

func newColumn(t testing.TB, typ string, optional bool) *native.Column {
	t.Helper()
	parsed, err := native.ParseType(typ)
	require.NoError(t, err)
	return native.NewColumn(parsed, optional)
}
