package clickhouse

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
)

// An INSERT that the server has begun, whose writer then sleeps, is ended by KILL QUERY, and what the writer sends when it
// wakes up goes nowhere.
func TestKillEndsAnInsertThatIsReceived(t *testing.T) {
	t.Run("by its id", func(t *testing.T) { killEnds(t, KillQuery, "zombie") })
	t.Run("by what its id begins with", func(t *testing.T) { killEnds(t, KillQueries, "zom") })
}

func killEnds(t *testing.T, kill func(context.Context, *controlv1.ClickHouseSink, string) error, id string) {
	t.Helper()
	sink := engine(t, "t", windowed)
	ctx := context.Background()
	asleep, wake := make(chan struct{}), make(chan struct{})
	answer := make(chan error, 1)
	in := inserter(t, sink)
	go func() {
		answer <- in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 200_000), Token: "a", QueryID: "zombie",
			Guard: func(context.Context) error {
				close(asleep)
				<-wake
				return nil
			}})
	}()
	<-asleep
	require.NoError(t, kill(ctx, sink, id))
	close(wake)
	require.Error(t, <-answer)
	require.Equal(t, "0/0", counted(t, sink))
	require.NoError(t, inserter(t, sink).Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 10), Token: "a", QueryID: "zombie"}), "the token is not used up")
	require.Equal(t, "10/10", counted(t, sink))
}

func TestKillEndsAnInsertInsideTheEngine(t *testing.T) {
	sink := engine(t, "t", `(id UInt64, text String, slow UInt8 MATERIALIZED sleepEachRow(0.05)) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 100`)
	ctx := context.Background()
	in := inserter(t, sink)
	begun := make(chan struct{})
	answer := make(chan error, 1)
	go func() {
		answer <- in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 50), Token: "a", QueryID: "slow",
			Guard: func(context.Context) error { close(begun); return nil }})
	}()
	<-begun
	// Until the engine has it, and while it sleeps: 2.5 s.
	require.Eventually(t, func() bool {
		return ask(t, sink, "SELECT toString(count()) FROM system.processes WHERE query LIKE 'INSERT INTO%"+sink.GetDatabase()+"%' AND query NOT LIKE '%LIKE%'") != "0"
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, KillQuery(ctx, sink, "slow"))
	err := <-answer
	require.Error(t, err)
	require.Equal(t, Ambiguous, Classify(err), "%v", err)
	require.Equal(t, "0/0", counted(t, sink))
}

// Whatever a guard says, no row leaves before it has said yes, and the next insert finds a connection in order.
func TestGuard(t *testing.T) {
	sink := engine(t, "t", windowed)
	ctx := context.Background()
	in := inserter(t, sink)
	insert := Insert{Table: TableName(sink), Columns: block(0, 10), Token: "a", QueryID: "q"}
	insert.Guard = func(context.Context) error { return context.DeadlineExceeded }
	err := in.Insert(ctx, insert)
	require.ErrorIs(t, err, ErrNotSent)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, Retry, Classify(err))
	require.Equal(t, "0/0", counted(t, sink))
	insert.Guard = func(context.Context) error { return nil }
	require.Eventually(t, func() bool {
		err := in.Insert(ctx, insert)
		return err == nil || !StillRunning(err)
	}, time.Minute, 5*time.Millisecond, "the attempt before ends with its connection")
	require.Equal(t, "10/10", counted(t, sink))
}
