package main

import (
	"context"
	"sync"
	"time"
)

const (
	watchEvery    = 200 * time.Millisecond
	progressEvery = 10 * time.Second
)

// Watch looks at the table all the time: how many rows there are, and how long none came while events flowed.
type Watch struct {
	table *Table
	acked func() uint64
	doing func() string

	mu    sync.Mutex
	rows  uint64        // guarded by mu
	stall time.Duration // guarded by mu: the longest
	when  string        // guarded by mu: what was being done when the longest began
}

// Run looks until ctx ends and reports now and then.
func (w *Watch) Run(ctx context.Context, report func()) {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	began, reported := time.Now(), time.Now() // began: of the present stall
	doing, known := w.doing(), w.acked()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		n, err := w.table.Count(ctx)
		acked := w.acked()
		w.mu.Lock()
		switch {
		case err == nil && n > w.rows, acked == known: // rows came, or nothing that could come
			w.rows = max(w.rows, n)
			began, doing, known = time.Now(), w.doing(), acked
		case now.Sub(began) > w.stall:
			w.stall, w.when = now.Sub(began), doing
		}
		w.mu.Unlock()
		if now.Sub(reported) >= progressEvery {
			reported = now
			report()
		}
	}
}

// Rows is the last count.
func (w *Watch) Rows() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rows
}

// Longest is the longest stall, and what was being done when it began.
func (w *Watch) Longest() (time.Duration, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stall, w.when
}
