package sink

import (
	"context"
	"fmt"
	"time"

	"sluice/libs/clickhouse"
	"sluice/services/sink/internal/block"
)

const (
	// killTimeout bounds one KILL QUERY … SYNC: a server notices it when data comes, or gives the silent
	// insert up by itself.
	killTimeout = clickhouse.ReceiveTimeout + 15*time.Second
	// passOver is how long an address that cannot be asked to end the predecessor's insert holds the lane up, when another
	// answers: by then it has given the insert of a stopped sink up by itself.
	passOver = clickhouse.ReceiveTimeout + 15*time.Second
)

// endPredecessor ends what the lane's owner before us may still be sending. It returns once no insert of the block runs.
//
// The lane's position is ours already. So an insert that the predecessor begins after this gets no data: its guard
// fails. One whose guard was through is known to the server, which is asked to end it. The token alone would not
// do: the table forgets it, while a stopped process may wake up after days.
func (l *lane) endPredecessor(ctx context.Context, n block.Name) error {
	return l.endQuery(ctx, n.QueryID(), sleeping(ctx))
}

// endQuery ends one insert. wait is between two attempts.
func (l *lane) endQuery(ctx context.Context, id string, wait func(time.Duration) error) error {
	return l.endQueries(ctx, id, wait, func(ctx context.Context) error { return clickhouse.KillQuery(ctx, l.sink(), id) })
}

// endAll ends all inserts of the pipeline: of a store that went back nobody knows which lanes there were, and what they were sending. Those of lanes that are there now are sent again.
func (l *lane) endAll(ctx context.Context) error {
	prefix := l.name(0, 0, 0, 0).Queries()
	return l.endQueries(ctx, prefix, sleeping(ctx), func(ctx context.Context) error { return clickhouse.KillQueries(ctx, l.sink(), prefix) })
}

// endQueries does it for as long as it takes.
func (l *lane) endQueries(ctx context.Context, id string, wait func(time.Duration) error, end func(context.Context) error) error {
	began := time.Now()
	for backoff := l.pace.first; ; backoff = min(2*backoff, l.pace.last) {
		attemptCtx, cancel := context.WithTimeout(ctx, killTimeout)
		err := end(attemptCtx)
		cancel()
		switch {
		case err == nil:
			l.trouble.sending(nil)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Since(began) > passOver && (clickhouse.Answered(err) || len(l.sink().GetAddr()) > 1):
			// A server that refuses, or one of several that is away: it is not to hold up the lane for ever.
			l.log.Warn("the predecessor's insert could not be ended", "query_id", id, "error", err)
			l.trouble.sending(nil)
			return nil
		}
		l.trouble.sending(fmt.Errorf("end the insert of the lane's owner before: %w", err))
		if err := wait(backoff); err != nil {
			return err
		}
	}
}
