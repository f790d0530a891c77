package lanes

import (
	"context"
	"time"
)

const (
	// publishTick bounds how often a lane's status is written.
	publishTick = 250 * time.Millisecond
	// keepAlive: the bucket is in memory, so after a restart of NATS all is written again this soon.
	keepAlive = 5 * time.Second
)

// publish writes the statuses of the lanes in work until ctx ends.
func (m *Manager) publish(ctx context.Context) {
	tick := time.NewTicker(publishTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, l := range m.lanes("") {
			putCtx, cancel := context.WithTimeout(ctx, m.renewal())
			err := l.publish(putCtx, m.cfg.Registry)
			cancel()
			if err != nil {
				m.log.Debug("status not published", "error", err)
				break // NATS is away; the others would fail as well
			}
		}
	}
}
