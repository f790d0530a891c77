package ingestor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A lane of the next stage gets a batch from each partition in each linger.
func TestLinger(t *testing.T) {
	for _, c := range []struct {
		maxDelay   time.Duration
		partitions int
		want       time.Duration
	}{
		{10 * time.Millisecond, 1, 2 * time.Millisecond},
		{20 * time.Millisecond, 4, 5 * time.Millisecond}, // a quarter of the delay
		{500 * time.Millisecond, 4, 50 * time.Millisecond},
		{500 * time.Millisecond, 100, 125 * time.Millisecond},
		{10 * time.Second, 4, 50 * time.Millisecond},
		{10 * time.Second, 1000, 2 * time.Second},
	} {
		require.Equal(t, c.want, linger(c.maxDelay, c.partitions), "%s, %d partitions", c.maxDelay, c.partitions)
	}
}
