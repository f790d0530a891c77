package stack

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// given are the addresses that were handed out: a process to which one belongs may not listen yet, or be down.
var (
	givenMu sync.Mutex
	given   = map[string]bool{} // guarded by givenMu
)

// FreeAddrs returns n addresses on loopback that nothing listens on. They lie below the range that systems take
// outgoing ports from: while a killed process is down nobody's connection gets its port.
func FreeAddrs(t testing.TB, n int) []string {
	t.Helper()
	givenMu.Lock()
	defer givenMu.Unlock()
	addrs := make([]string, 0, n)
	for range 100 * n {
		if len(addrs) == n {
			return addrs
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+rand.IntN(10000))))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found: no address comes twice
		if addr := l.Addr().String(); !given[addr] {
			given[addr] = true
			addrs = append(addrs, addr)
		}
	}
	t.Fatalf("no %d free ports", n)
	return nil
}
