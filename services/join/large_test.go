package join

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/libs/lanes"
)

// noise is letters that do not get smaller when compressed.
func noise(n int) []byte {
	letters := make([]byte, n)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range letters {
		letters[i] = 'A' + byte(random.IntN(58))%26 | byte(random.IntN(2))<<5
	}
	return letters
}

// TestLargeRows: a pair that no message takes is a dead letter, one that shrinks enough is put out; a replay of what is in the log counts both as before.
func TestLargeRows(t *testing.T) {
	w := newWorld(t, nil)
	w.produce("orders", `{"order":"too large"}`)
	most := int(w.nc.MaxPayload())
	part := most * 2 / 3
	noise := noise(2 * part)
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	users.send(user(100_000, "ann", `"`+string(noise[:part])+`"`, 31, ""))
	users.send(user(100_000, "bob", `"`+strings.Repeat("b", part)+`"`, 32, ""))
	orders.send(event{100_000, "ann", []string{`"` + string(noise[part:]) + `"`, "1"}})
	orders.send(event{100_000, "bob", []string{`"` + strings.Repeat("c", part) + `"`, "2"}}, order(100_000, "bob", "small", 3))
	for range 2 { // the second time from the beginning: there is no checkpoint, but all is in the log
		o := newOwner()
		stop := w.running(o, w.js, time.Hour)
		s := w.covered(o)
		require.EqualValues(t, 2, s.GetTally().GetRows())
		require.EqualValues(t, 1, s.GetTally().GetDeadLetters())
		require.Eventually(t, func() bool {
			rows, _ := w.output()
			return len(rows) == 2 && len(w.letters()) == 1
		}, 2*time.Minute, 10*time.Millisecond)
		_ = stop(lanes.ErrLost)
	}
	rows, _ := w.output()
	require.Len(t, rows, 2)
	require.Contains(t, w.letters()[0].GetReason(), fmt.Sprintf("more than a message of %d bytes takes", most))
	require.JSONEq(t, `{"order":"too large"}`, string(w.letters()[0].GetValue()))
}

// TestLargeRowsInTheCheckpoint: rows that a message just takes, behind small ones, are kept in the checkpoint, whose messages may be as large.
func TestLargeRowsInTheCheckpoint(t *testing.T) {
	w := newWorld(t, nil)
	orders, users := w.producer("orders", 0), w.producer("users", 0)
	for n := range 3 {
		var events []event
		for i := range 500 {
			events = append(events, order(100_000, "ann", fmt.Sprintf("small-%d-%d", n, i), 1))
		}
		orders.send(events...)
		orders.send(event{100_000, "bob", []string{`"` + string(noise(int(w.nc.MaxPayload())-4<<10)) + `"`, "2"}})
	}
	o := newOwner()
	stop := w.running(o, w.js, time.Hour)
	w.covered(o)
	require.NoError(t, stop(lanes.ErrStopping))
	o = newOwner()
	stop = w.running(o, w.js, time.Hour)
	users.send(user(100_000, "ann", "", 1, ""), user(100_000, "bob", "", 1, ""))
	s := w.covered(o)
	require.EqualValues(t, 1503, s.GetTally().GetMatched())
	require.NoError(t, stop(lanes.ErrStopping))
}
