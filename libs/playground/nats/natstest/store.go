package natstest

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// answers is how long a client may take to find the server again.
const answers = 2 * time.Minute

// Copy makes a copy of the store, and returns what puts streams back to what they were then; buckets are streams, too. Both stop the server and start it again, and
// return once js answers.
func (s *Server) Copy(js jetstream.JetStream) (putBack func(streams ...string)) {
	s.t.Helper()
	earlier := filepath.Join(s.t.TempDir(), "earlier")
	s.Stop()
	require.NoError(s.t, os.CopyFS(earlier, os.DirFS(s.dir)))
	s.startFor(js)
	return func(streams ...string) {
		s.t.Helper()
		s.Stop()
		for _, stream := range streams {
			at := filepath.Join("jetstream", "$G", "streams", stream)
			require.DirExists(s.t, filepath.Join(earlier, at))
			require.NoError(s.t, os.RemoveAll(filepath.Join(s.dir, at)))
			require.NoError(s.t, os.CopyFS(filepath.Join(s.dir, at), os.DirFS(filepath.Join(earlier, at))))
		}
		s.startFor(js)
	}
}

func (s *Server) startFor(js jetstream.JetStream) {
	s.t.Helper()
	s.Start()
	require.Eventually(s.t, func() bool {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err == nil
	}, answers, 5*time.Millisecond)
}
