//go:build unix

package realkafka

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// hostPort is an address on the loopback interface: nothing else is ever listened on.
func hostPort(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePorts picks a free port for each name. They lie below the range that systems take outgoing ports from: while
// a killed broker is down nobody's connection gets its port, and no client that redials it meets itself.
func freePorts(names []string) (map[string]int, error) {
	ports := make(map[string]int, len(names))
	taken := make([]net.Listener, 0, len(names))
	defer func() {
		for _, l := range taken {
			_ = l.Close()
		}
	}()
	for _, name := range names {
		var l net.Listener
		var err error
		for range 100 {
			if l, err = net.Listen("tcp", hostPort(20000+rand.IntN(12000))); err == nil {
				break
			}
		}
		if err != nil {
			return nil, fmt.Errorf("find a free port for Kafka's listener %s: %w", name, err)
		}
		taken = append(taken, l)
		ports[name] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
