package main

import (
	"context"
	"fmt"
)

// Copy is one record of an event.
type Copy struct {
	N uint64
	Place
}

// Events is what the topic of a dedupJob holds: the only thing that the table is compared with.
type Events struct {
	Records uint64
	// First occurrence by id; N is 0 where there is none.
	First []Copy
	// Twice: records that Kafka holds twice, from a producer's retry. Events like any other.
	Twice uint64
}

// IDs is the number of different events.
func (t *Events) IDs() (n uint64) {
	for _, c := range t.First {
		if c.N != 0 {
			n++
		}
	}
	return n
}

// readEvents reads the topic. sent is how many records were handed over and acknowledged.
func readEvents(ctx context.Context, addr string, sent uint64) (*Events, error) {
	t := &Events{}
	acked := newAcknowledged(sent)
	err := each(ctx, addr, topic, func(value []byte, p Place) error {
		e, err := parseEvent(value)
		if err != nil {
			return err
		}
		t.Records++
		for uint64(len(t.First)) <= e.ID {
			t.First = append(t.First, Copy{})
		}
		if t.First[e.ID].N == 0 {
			t.First[e.ID] = Copy{e.N, p}
		}
		acked.add(e.N)
		return nil
	})
	t.Twice = acked.twice
	if err == nil {
		err = acked.whole()
	}
	return t, err
}

// copies returns all records of some events.
func copies(ctx context.Context, addr string, ids map[uint64]bool) (map[uint64][]Sighting, error) {
	out := map[uint64][]Sighting{}
	err := each(ctx, addr, topic, func(value []byte, p Place) error {
		e, err := parseEvent(value)
		if err == nil && ids[e.ID] {
			out[e.ID] = append(out[e.ID], Sighting{What: fmt.Sprintf("copy %d", e.N), Place: p})
		}
		return err
	})
	return out, err
}
