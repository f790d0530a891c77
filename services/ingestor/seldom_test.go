package ingestor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSeldom(t *testing.T) {
	var s seldom
	now := time.Now()
	for n := range 100 {
		again, tell := s.next(now.Add(time.Duration(n) * time.Second))
		require.Equal(t, n == 0 || n == 60, tell, n)
		if n == 60 {
			require.Equal(t, 59, again)
		}
	}
	s.over()
	again, tell := s.next(now)
	require.True(t, tell)
	require.Zero(t, again)
}
