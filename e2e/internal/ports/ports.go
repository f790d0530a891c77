// Package ports finds addresses for the processes of a test or a run.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// given are the addresses that were handed out: a process to which one belongs may not listen yet, or be down.
var (
	givenMu sync.Mutex
	given   = map[string]bool{} // guarded by givenMu
)

// Free returns n addresses on loopback that nothing listens on, none of them twice in the life of this process. They lie below the range that systems take
// outgoing ports from: while a killed process is down nobody's connection gets its port.
func Free(n int) ([]string, error) {
	givenMu.Lock()
	defer givenMu.Unlock()
	addrs := make([]string, 0, n)
	for range 100 * n {
		if len(addrs) == n {
			return addrs, nil
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
	return nil, fmt.Errorf("no %d free ports", n)
}
