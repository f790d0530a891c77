package lanes

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// event is what the watcher tells the loop.
type event struct {
	key   string
	value []byte // nil: removed
	rev   uint64
	// synced: everything that was in the bucket when the watcher was opened has come.
	synced bool
	began  time.Time // when the watcher was opened
}

// watch feeds the loop with the bucket's changes until ctx ends. The watcher of the client heals
// itself, but takes up to ten seconds after a restart of NATS; the loop, which hears of its own
// renewals, notices that it is deaf and asks for a new watcher.
func (m *Manager) watch(ctx context.Context) {
	for ctx.Err() == nil {
		m.watchOnce(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(m.tick()):
		}
	}
}

func (m *Manager) watchOnce(ctx context.Context) {
	// The bucket is made by the loop.
	openCtx, cancelOpen := context.WithTimeout(ctx, m.renewal())
	defer cancelOpen()
	kv, err := m.cfg.JS.KeyValue(openCtx, Bucket)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case <-m.rewatch: // asked for before this watcher began
	default:
	}
	began := time.Now()
	w, err := kv.Watch(ctx, m.cfg.Stage+".>")
	if err != nil {
		return
	}
	defer func() {
		_ = w.Stop() // fails only when it has ended already
		for range w.Updates() {
			// Taken, so that the client is not left blocked in handing over.
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.rewatch:
			return
		case e, ok := <-w.Updates():
			if !ok {
				return
			}
			if !m.tell(ctx, e, began) {
				return
			}
		}
	}
}

func (m *Manager) tell(ctx context.Context, e jetstream.KeyValueEntry, began time.Time) bool {
	ev := event{synced: true, began: began}
	if e != nil {
		ev = event{began: began, key: strings.TrimPrefix(e.Key(), m.cfg.Stage+"."), value: e.Value(), rev: e.Revision()}
		if e.Operation() != jetstream.KeyValuePut {
			ev.value = nil
		} else if ev.value == nil {
			ev.value = []byte{}
		}
	}
	select {
	case m.events <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

// hear takes an event into the view.
func (m *Manager) hear(ev event) {
	if ev.began.Before(m.since) {
		return // of a watcher from before the view was begun anew
	}
	now := time.Now()
	m.heard = now
	if ev.synced {
		m.view.sweep(ev.began)
		m.view.synced = true
		return
	}
	m.view.apply(ev.key, ev.value, ev.rev, now)
}

// lookAfresh begins the view anew with a new watcher.
func (m *Manager) lookAfresh() {
	m.view, m.since = newView(), time.Now()
	m.askWatcher()
}

func (m *Manager) askWatcher() {
	select {
	case m.rewatch <- struct{}{}:
	default:
	}
}

// note enters an own write before the watcher brings it. value nil: removed.
func (m *Manager) note(key string, value []byte, rev uint64) {
	m.view.apply(strings.TrimPrefix(key, m.cfg.Stage+"."), value, rev, time.Now())
}

// see enters what was read.
func (m *Manager) see(key string, e jetstream.KeyValueEntry) { m.note(key, e.Value(), e.Revision()) }
