package lanes

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// world plays instances that share one bucket and act one after the other in any order.
type world struct {
	view   *view
	wanted map[laneID]bool
	rev    uint64
	now    time.Time
	live   map[string]bool
	moves  int
}

func (w *world) write(key string, value any) {
	w.rev++
	if value == nil {
		w.view.apply(key, nil, w.rev, w.now)
		return
	}
	w.view.apply(key, encode(value), w.rev, w.now)
}

func laneKey(id laneID) string { return fmt.Sprintf("lane.%s.%d", id.pipeline, id.index) }

func (w *world) join(name string) {
	w.live[name] = true
	w.write("members."+name, memberRecord{Session: "s-" + name})
}

// act lets one instance carry its plan out at once and tells whether there was anything to do.
func (w *world) act(name string) bool {
	running := map[laneID]bool{}
	for id := range w.wanted {
		if w.view.owner(id) == name {
			running[id] = false
		}
	}
	p := makePlan(input{view: w.view, instance: name, session: "s-" + name, wanted: w.wanted, running: running,
		lease: time.Second, now: w.now})
	for _, dead := range p.bury {
		w.write("members."+dead, nil)
	}
	for _, id := range p.give {
		w.write(laneKey(id), nil)
		w.moves++
	}
	for _, id := range append(p.drop, p.clean...) {
		w.write(laneKey(id), nil)
	}
	for _, id := range p.take {
		w.write(laneKey(id), laneRecord{Instance: name, Session: "s-" + name})
	}
	return len(p.bury)+len(p.give)+len(p.drop)+len(p.clean)+len(p.take) > 0
}

func (w *world) settle(t *rapid.T) {
	for round := 0; ; round++ {
		require.Less(t, round, 20, "no end of moving")
		busy := false
		for name := range w.live { // map order: any order
			busy = w.act(name) || busy
		}
		if !busy {
			break
		}
	}
	if len(w.live) == 0 {
		return
	}
	counts := map[string]int{}
	for id := range w.wanted {
		o := w.view.owner(id)
		require.True(t, w.live[o], "lane %v is with %q", id, o)
		counts[o]++
	}
	for name := range w.live {
		low := len(w.wanted) / len(w.live)
		require.GreaterOrEqual(t, counts[name], low)
		require.LessOrEqual(t, counts[name], low+1)
	}
	for id, l := range w.view.lanes {
		require.True(t, l.gone || w.wanted[id], "a record is left of %v", id)
	}
}

func TestPlanConvergesAndRests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{view: newView(), wanted: map[laneID]bool{}, now: time.Unix(0, 0), live: map[string]bool{}}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "instance")
			pipeline := rapid.SampledFrom([]string{"p", "q", "r-1"}).Draw(t, "pipeline")
			switch rapid.SampledFrom([]string{"join", "kill", "leave", "pipeline", "drop"}).Draw(t, "what") {
			case "join":
				if !w.live[name] {
					w.join(name)
				}
			case "leave":
				if w.live[name] {
					delete(w.live, name)
					w.write("members."+name, nil)
				}
			case "kill":
				// Its record stays and grows old while the others renew.
				delete(w.live, name)
				w.now = w.now.Add(2 * time.Second)
				for other := range w.live {
					w.write("members."+other, memberRecord{Session: "s-" + other})
				}
			case "pipeline":
				for i := range rapid.IntRange(1, 9).Draw(t, "lanes") {
					w.wanted[laneID{pipeline, i}] = true
				}
			case "drop":
				for id := range w.wanted {
					if id.pipeline == pipeline {
						delete(w.wanted, id)
					}
				}
			}
			w.settle(t)
		}
	})
}

func TestPlanMovesNoMoreThanNeeded(t *testing.T) {
	w := &world{view: newView(), wanted: map[laneID]bool{}, live: map[string]bool{}, now: time.Unix(0, 0)}
	for i := range 12 {
		w.wanted[laneID{"p", i}] = true
	}
	w.join("a")
	w.act("a")
	for i, name := range []string{"b", "c", "d"} {
		w.moves = 0
		w.join(name)
		for range 5 {
			for n := range w.live {
				w.act(n)
			}
		}
		require.Equal(t, 12/(i+2), w.moves, "only what %s gets moves", name)
	}
}

func TestViewIgnoresWhatIsOlder(t *testing.T) {
	v := newView()
	t0 := time.Unix(100, 0)
	v.apply("members.a", encode(memberRecord{Session: "s2"}), 7, t0)
	v.apply("members.a", encode(memberRecord{Session: "s1"}), 5, t0.Add(time.Second))
	require.Equal(t, "s2", v.members["a"].Session)
	// Seen again is not changed: it does not prove life.
	v.apply("members.a", encode(memberRecord{Session: "s2"}), 7, t0.Add(3*time.Second))
	require.Equal(t, []string{"a"}, v.dead("other", 3*time.Second, t0.Add(3*time.Second)))
	require.Empty(t, v.dead("s2", 3*time.Second, t0.Add(3*time.Second)), "nobody buries itself")
	// A lease of an earlier session is void.
	v.apply("lane.p.0", encode(laneRecord{Instance: "a", Session: "s1"}), 8, t0)
	require.Empty(t, v.owner(laneID{"p", 0}))
	v.apply("lane.p.0", encode(laneRecord{Instance: "a", Session: "s2"}), 9, t0)
	require.Equal(t, "a", v.owner(laneID{"p", 0}))
	v.sweep(t0.Add(time.Second))
	require.Empty(t, v.lanes)
	require.Len(t, v.members, 1)
}
