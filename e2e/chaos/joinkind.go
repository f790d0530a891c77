package main

import (
	"fmt"
	"strings"
	"time"
)

// joinWait is how long a left row of a LOOKUP waits for its first right row.
const joinWait = 20 * time.Second

// joinKind is which join a joinJob has.
type joinKind struct {
	Lookup bool // else INTERVAL
	Inner  bool // else LEFT
	Both   bool // the right side is deduplicated, too, by its join key; else its rows are all taken
}

// kindOf reads what was asked for; what was not is drawn from the seed.
func kindOf(kind, typ, both string, seed uint64) (k joinKind, err error) {
	for i, choice := range []struct {
		name, text, first, second string
		set                       *bool
	}{
		{"kind", kind, "INTERVAL", "LOOKUP", &k.Lookup}, {"type", typ, "LEFT", "INNER", &k.Inner}, {"both", both, "false", "true", &k.Both},
	} {
		switch {
		case choice.text == "":
			*choice.set = seed>>i&1 == 1
		case strings.EqualFold(choice.text, choice.second):
			*choice.set = true
		case !strings.EqualFold(choice.text, choice.first):
			return k, fmt.Errorf("-%s %q: want %s or %s", choice.name, choice.text, choice.first, choice.second)
		}
	}
	return k, nil
}

func (k joinKind) String() string {
	text := map[bool]string{false: "INTERVAL", true: "LOOKUP"}[k.Lookup] + " " + k.typ()
	if k.Both {
		text += ", both sides deduplicated"
	}
	return text
}

func (k joinKind) typ() string { return map[bool]string{false: "LEFT", true: "INNER"}[k.Inner] }

// join is the specification's.
func (k joinKind) join() string {
	how := "kind: INTERVAL"
	if k.Lookup {
		how = "kind: LOOKUP, wait: " + seconds(joinWait)
	}
	return fmt.Sprintf("%s, type: %s, window: %s, grace: %s, idle: %s, memory: %d",
		how, k.typ(), seconds(joinWindow), seconds(joinGrace), seconds(joinIdle), joinMemory)
}

// rightDedup is the specification's.
func (k joinKind) rightDedup(with Settings) string {
	if !k.Both {
		return ""
	}
	return fmt.Sprintf(", dedup: {key: [name], window: %s, missing_key: PASS}", seconds(with.Window))
}

// partners are the right rows that a left row meets, of those of its key.
func (k joinKind) partners(l JoinEvent, rights []Place, at func(Place) JoinEvent) (out []Place) {
	if !k.Lookup {
		for _, p := range rights {
			if l.At.Sub(at(p).At).Abs() <= joinWindow {
				out = append(out, p)
			}
		}
		return out
	}
	// The newest as of its time, else the first after it; of one time the last that Kafka has: all of a key are in one partition.
	var before, after *Place
	for _, p := range rights {
		r := at(p).At
		switch d := r.Sub(l.At); {
		case d <= 0 && -d <= joinWindow:
			if before == nil || r.After(at(*before).At) || r.Equal(at(*before).At) && p.Offset > before.Offset {
				before = &p
			}
		case d > 0 && d <= joinWait:
			if after == nil || r.Before(at(*after).At) || r.Equal(at(*after).At) && p.Offset > after.Offset {
				after = &p
			}
		}
	}
	switch {
	case before != nil:
		return []Place{*before}
	case after != nil:
		return []Place{*after}
	}
	return nil
}
