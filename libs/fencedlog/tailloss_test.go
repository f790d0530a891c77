package fencedlog

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	playground "sluice/libs/playground/nats"
)

// A log that loses its tail under a reader, and is as long again or longer before the reader is back:
// it must not go on at the sequence where it stood, for other messages are there now.
func TestReaderNoticesATailLoss(t *testing.T) {
	for name, again := range map[string]int{"shorter": 0, "as long": 5, "longer": 9} {
		t.Run(name, func(t *testing.T) {
			ctx, dir := contextFor(t), filepath.Join(t.TempDir(), "store")
			listen := "127.0.0.1:0"
			start := func() *playground.Server {
				s, err := playground.Open(playground.Config{Dir: dir, Listen: listen})
				require.NoError(t, err)
				return s
			}
			s := start()
			listen = s.Addr()
			js := connect(t, s.URL())
			require.NoError(t, Ensure(ctx, js, testLog, Limits{}))
			write := func(from, n int) {
				w, _, err := Open(ctx, js, testLog, "0", Options{Lanes: []int{0}})
				require.NoError(t, err)
				for i := range n {
					_, err := w.Append(ctx, 0, fmt.Sprint(from+i), nil)
					require.NoError(t, err)
				}
			}
			write(0, 3)
			require.NoError(t, s.Close())
			earlier := filepath.Join(t.TempDir(), "earlier")
			require.NoError(t, os.CopyFS(earlier, os.DirFS(dir)))
			s = start()
			write(3, 5)
			r, err := OpenReader(ctx, js, testLog, 0, 1)
			require.NoError(t, err)
			defer r.Close()
			for i := range 8 {
				msg, err := r.Next(ctx)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(i), msg.Position)
			}
			beyond := r.sequence + 1
			require.NoError(t, s.Close())
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.CopyFS(dir, os.DirFS(earlier)))
			s = start()
			defer s.Close()
			// A server that starts may leave a request without an answer: each has a limit of its own.
			require.Eventually(t, func() bool {
				attempt, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				_, err := js.Stream(attempt, testLog.Stream())
				return err == nil
			}, time.Minute, 5*time.Millisecond)
			if again > 0 {
				write(3, again)
			} else {
				_, err = OpenReader(ctx, js, testLog, 0, beyond)
				require.ErrorIs(t, err, ErrTailLost)
			}
			_, err = r.Next(ctx)
			require.ErrorIs(t, err, ErrTailLost)
			require.ErrorIs(t, err, ErrPurged, "what readers stop at")
		})
	}
}
