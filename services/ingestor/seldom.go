package ingestor

import (
	"sync"
	"time"
)

// repeatAfter is how often a trouble that lasts is told again: the client tries each partition every second or two, and an operator needs
// to hear of it once.
const repeatAfter = time.Minute

// seldom says when a trouble that comes again and again is to be told. Its zero value is ready; its methods may be called from any goroutine.
type seldom struct {
	mu    sync.Mutex
	told  time.Time // zero: not yet
	times int       // since then
}

// next takes one more and says whether to tell it, with how often it came untold.
func (s *seldom) next(now time.Time) (again int, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.told.IsZero() && now.Sub(s.told) < repeatAfter {
		s.times++
		return 0, false
	}
	again, s.told, s.times = s.times, now, 0
	return again, true
}

// over says that it works: the next trouble is a new one.
func (s *seldom) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told, s.times = time.Time{}, 0
}
