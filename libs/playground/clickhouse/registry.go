package clickhouse

import (
	"fmt"
	"sync"
	"time"
)

// registry knows the queries that run, by the id that their client gave them. The engine has ids of its own.
type registry struct {
	mu      sync.Mutex
	running map[string]*running
}

// running is one query from its arrival until its end in the engine.
type running struct {
	id, text string
	tag      string        // of the session
	done     chan struct{} // closed when the query has ended: what it wrote is visible, or never will be

	mu       sync.Mutex
	killed   bool
	inEngine bool   // the engine has it
	wake     func() // ends waiting for the client
}

var errKilled = &exception{codeQueryCancelled, "Query was cancelled"}

func (r *registry) add(id, text, tag string, wake func()) (*running, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running[id] != nil {
		return nil, &exception{codeDuplicateQueryID, fmt.Sprintf("Query with id = %s is already running.", id)}
	}
	q := &running{id: id, text: text, tag: tag, done: make(chan struct{}), wake: wake}
	if r.running == nil {
		r.running = map[string]*running{}
	}
	r.running[id] = q
	return q, nil
}

func (r *registry) remove(q *running) {
	r.mu.Lock()
	delete(r.running, q.id)
	r.mu.Unlock()
	close(q.done)
}

func (r *registry) find(wanted func(id string) bool) []*running {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*running
	for id, q := range r.running {
		if wanted(id) {
			out = append(out, q)
		}
	}
	return out
}

// enter says that the engine gets the query now. A query that was killed before never enters.
func (q *running) enter() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.killed {
		return errKilled
	}
	q.inEngine = true
	return nil
}

func (q *running) wasKilled() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.killed
}

// kill asks the query to end. It may be called again.
func (q *running) kill(by *link) error {
	q.mu.Lock()
	q.killed = true
	inEngine := q.inEngine
	q.mu.Unlock()
	if !inEngine {
		q.wake()
		return nil
	}
	return cancelTagged(by, q.tag)
}

// killEvery is how often a query that does not end is asked again: the engine may not have known it yet.
const killEvery = 10 * time.Millisecond

// end kills the query and waits until it has ended.
func (q *running) end(by *link, stop <-chan struct{}) error {
	tick := time.NewTicker(killEvery)
	defer tick.Stop()
	for {
		select {
		case <-q.done:
			return nil
		default:
		}
		if err := q.kill(by); err != nil {
			return err
		}
		select {
		case <-q.done:
			return nil
		case <-stop:
			return errKilled
		case <-tick.C:
		}
	}
}
