package ingestor

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Rows wait for the linger; while the partition is far behind and records keep coming, until batches are full or patience ends.
func TestCompany(t *testing.T) {
	const linger, patience = 50 * time.Millisecond, 500 * time.Millisecond
	now := time.Now()
	for _, c := range []struct {
		name                   string
		pending                int
		waited, silent         time.Duration
		behind                 int64 // records in Kafka
		linger, patience, want time.Duration
	}{
		{"nothing is pending", 0, time.Hour, 0, 1 << 20, linger, patience, 0},
		{"at the end of the topic", 10, 20 * time.Millisecond, 0, 0, linger, patience, 30 * time.Millisecond},
		{"the linger is over", 10, linger, 0, 0, linger, patience, 0},
		{"little is left", 10, linger, 0, burst - 1, linger, patience, 0},
		{"behind", 10, linger, 0, burst, linger, patience, linger},
		{"less is left than is pending", 5000, linger, 0, 4999, linger, patience, 0},
		{"as much is left as is pending", 5000, 480 * time.Millisecond, 0, 5000, linger, patience, 20 * time.Millisecond},
		{"patience is over", 5000, patience, 0, 1 << 20, linger, patience, 0},
		{"behind, but nothing comes", 5000, linger, linger, 1 << 20, linger, patience, 0},
		{"a short delay", 5000, 20 * time.Millisecond, 0, 1 << 20, 5 * time.Millisecond, 20 * time.Millisecond, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &partition{
				linger: c.linger, patience: c.patience, pending: c.pending,
				pendingFrom: now.Add(-c.waited), lastRecord: now.Add(-c.silent), pos: position{next: 100},
			}
			require.Equal(t, c.want, p.company(100+c.behind, now))
		})
	}
}
