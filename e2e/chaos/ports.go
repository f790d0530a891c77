package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// freeAddrs returns n addresses on loopback that nothing listens on. They lie below the range that systems take
// outgoing ports from: while a killed process is down nobody's connection gets its port.
func freeAddrs(n int) ([]string, error) {
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
		addrs = append(addrs, l.Addr().String())
	}
	return nil, fmt.Errorf("no %d free ports", n)
}
