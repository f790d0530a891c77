package sink

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/clickhouse"
	"sluice/libs/lanes"
	"sluice/libs/receipts"
)

// answered is a table that calls then when it has answered a block with success.
type answered struct {
	inserter
	then func()
}

func (a *answered) Insert(ctx context.Context, i clickhouse.Insert) error {
	err := a.inserter.Insert(ctx, i)
	if err == nil {
		a.then()
	}
	return err
}

// The lane's owner dies when the server has answered for a block, before the position says so. The block is not inserted again, though the table has forgotten its token:
// there is a receipt. Without one the token is all there is.
func TestAReceiptTellsOfTheBlockThatWasBeingSent(t *testing.T) {
	for name, told := range map[string]bool{"told": true, "not told": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			require.NoError(t, receipts.Ensure(t.Context(), w.js, "p"))
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			f := &faults{JetStream: w.js, at: -1, mode: crashed}
			l := w.lane(newOwner(), "one", 0, f)
			l.inserter = &answered{l.inserter, func() { f.hit.Store(true); cancel(lanes.ErrLost) }}
			if !told {
				l.publish = nil
			}
			w.send(0, uniform(0, 100))
			require.NoError(t, errOrNil(l.run(ctx), lanes.ErrLost, errCrash))
			require.Equal(t, "100/100", w.table())
			require.NotNil(t, w.position(0).GetPending())
			if told {
				require.Eventually(t, func() bool {
					r, err := receipts.Last(t.Context(), w.js, "p", 0)
					return err == nil && r.GetRows() == 100
				}, patience, 5*time.Millisecond)
				w.forgetTokens(1000)
			}
			o := newOwner()
			stop := w.start(o, "two", 0, w.js)
			w.send(0, uniform(100, 10))
			o.waitFor(t, 110)
			require.NoError(t, stop(lanes.ErrStopping))
			require.Equal(t, "110/110", w.table())
			require.EqualValues(t, 110, o.snapshot().GetTally().GetRecords())
			require.Nil(t, w.position(0).GetPending())
			w.balances("")
		})
	}
}
