package fold

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReaches(t *testing.T) {
	order := []string{"", "7/0", "7/1", "7/12", "7", "8/0", "8", "10", "1:2/3", "1:2", "2:1"}
	for i, a := range order {
		for j, b := range order[1:] {
			got, err := Reaches(a, b)
			require.NoError(t, err)
			require.Equal(t, i >= j+1, got, "%s, %s", a, b)
		}
	}
	for _, bad := range []string{"x", "1:x", "1/x", ":", "7/", "-1"} {
		_, err := Reaches("7", bad)
		require.Error(t, err, bad)
		_, err = Reaches(bad, "7")
		require.Error(t, err, bad)
	}
}
