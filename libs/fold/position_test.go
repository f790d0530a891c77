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

func TestThrough(t *testing.T) {
	for _, c := range []struct {
		last  string
		epoch uint32
		want  bool
	}{
		{"7", 0, true}, {"8/0", 0, true}, {"7/12", 0, false}, {"6", 0, false}, {"", 0, false}, {"1:7", 0, false}, // of another log
		{"1:7", 1, true}, {"1:6", 1, false}, {"7", 1, false}, {"2:7", 1, false},
	} {
		got, err := Through(c.last, c.epoch, 7)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%q, epoch %d", c.last, c.epoch)
	}
	_, err := Through("x", 0, 7)
	require.Error(t, err)
}
