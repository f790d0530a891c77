package main

import (
	"fmt"
	"net"
	"sync"
)

// Proxy is a TCP proxy in front of one server, to break its connections in ways that a network does.
type Proxy struct {
	target func() string // host:port now
	l      net.Listener
	wg     sync.WaitGroup

	mu     sync.Mutex
	cut    bool                  // guarded by mu
	mute   bool                  // guarded by mu
	thaw   chan struct{}         // guarded by mu; not nil while frozen, closed by Heal
	conns  map[net.Conn]struct{} // guarded by mu; both ends of every pair
	large  int                   // guarded by mu; size of a request that somebody waits for
	passed chan struct{}         // guarded by mu; closed once such a request was passed on, nil when nobody waits
}

// NewProxy listens on addr and passes everything on to the target.
func NewProxy(addr string, target func() string) (*Proxy, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{target: target, l: l, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Cut closes all connections and refuses new ones until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	p.closeAll()
}

// Mute passes requests on and drops the answers until Heal, which closes the connections: a stream with a hole in it
// must not be read on.
func (p *Proxy) Mute() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = true
}

// Freeze holds everything back until Heal, which passes it on.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.thaw == nil {
		p.thaw = make(chan struct{})
	}
}

// Heal ends Cut, Mute and Freeze.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mute {
		p.closeAll()
	}
	if p.thaw != nil {
		close(p.thaw)
		p.thaw = nil
	}
	p.cut, p.mute = false, false
}

// Request returns a channel that is closed once a client has sent at least size bytes at once and they were passed on.
func (p *Proxy) Request(size int) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.passed == nil {
		p.passed = make(chan struct{})
	}
	p.large = size
	return p.passed
}

// Close ends the proxy and waits for its goroutines.
func (p *Proxy) Close() {
	p.Heal()
	p.Cut()
	_ = p.l.Close()
	p.wg.Wait()
}

// closeAll is called with mu held.
func (p *Proxy) closeAll() {
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target())
		if err != nil {
			_ = client.Close()
			continue
		}
		if !p.track(client, server) {
			continue
		}
		p.wg.Go(func() { p.requests(server, client) })
		p.wg.Go(func() { p.answers(client, server) })
	}
}

// track keeps the pair, or closes it when the line is cut.
func (p *Proxy) track(pair ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pair {
		if p.cut {
			_ = c.Close()
		} else {
			p.conns[c] = struct{}{}
		}
	}
	return !p.cut
}

func (p *Proxy) forget(pair ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pair {
		_ = c.Close()
		delete(p.conns, c)
	}
}

// requests copies from a client to the server until one of them ends.
func (p *Proxy) requests(server, client net.Conn) {
	defer p.forget(server, client)
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if n > 0 {
			p.frozen()
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
			p.saw(n)
		}
		if err != nil {
			return
		}
	}
}

// answers copies from the server to a client, unless they are dropped.
func (p *Proxy) answers(client, server net.Conn) {
	defer p.forget(client, server)
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if n > 0 {
			p.frozen()
			if !p.muted() {
				if _, err := client.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// frozen waits while the line is frozen.
func (p *Proxy) frozen() {
	p.mu.Lock()
	thaw := p.thaw
	p.mu.Unlock()
	if thaw != nil {
		<-thaw
	}
}

func (p *Proxy) muted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mute
}

// saw wakes up who waits for a request of that size.
func (p *Proxy) saw(size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.passed != nil && size >= p.large {
		close(p.passed)
		p.passed = nil
	}
}
