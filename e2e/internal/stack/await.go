//go:build unix

package stack

import (
	"testing"
	"time"
)

// poll is how often Await looks.
const poll = 50 * time.Millisecond

// Await waits until look says true, in the test's own goroutine. When that does not happen in time, the test ends with
// what was last seen.
func Await(t testing.TB, within time.Duration, what string, look func() (ok bool, seen any)) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(poll) {
		ok, seen := look()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s: %s; last seen: %+v", within, what, seen)
		}
	}
}

// Later is what is looked up only when there is something to tell.
type Later func() string

func (l Later) String() string { return l() }
