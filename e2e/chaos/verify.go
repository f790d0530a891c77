package main

import (
	"context"
	"fmt"
	"slices"
)

// maxOffending bounds the events whose path is printed.
const maxOffending = 8

// Verdict is what a comparison of the table with the truth has found.
type Verdict struct {
	Rows     uint64
	Lost     uint64 // rows that should be in the table and are not
	Repeated uint64 // rows beyond the one that should be
	Wrong    uint64 // rows that are not, whole, what they should be

	noun      string              // what the ids are of
	offending map[uint64][]string // what is wrong, by id; at most maxOffending
	// sightings finds the records that some ids are of.
	sightings func(ctx context.Context, ids map[uint64]bool) (map[uint64][]Sighting, error)
}

// Sighting is a record in Kafka that has to do with an offending row.
type Sighting struct {
	What   string
	Source string // of a join
	Place
}

func newVerdict(noun string) *Verdict {
	return &Verdict{noun: noun, offending: map[uint64][]string{}}
}

// Exact tells whether the table is exactly what it should be.
func (v *Verdict) Exact() bool { return v.Lost == 0 && v.Repeated == 0 && v.Wrong == 0 }

func (v *Verdict) offends(id uint64, format string, args ...any) {
	if _, known := v.offending[id]; known || len(v.offending) < maxOffending {
		v.offending[id] = append(v.offending[id], fmt.Sprintf(format, args...))
	}
}

// Explain prints the offending rows with the paths of their records through the logs.
func (v *Verdict) Explain(ctx context.Context, tap *Tap, say func(string, ...any)) error {
	ids := map[uint64]bool{}
	var order []uint64
	for id := range v.offending {
		ids[id] = true
		order = append(order, id)
	}
	slices.Sort(order)
	all, err := v.sightings(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range order {
		say("%s %d:", v.noun, id)
		for _, w := range v.offending[id] {
			say("  %s", w)
		}
		for _, s := range all[id] {
			say("  %s: Kafka %s partition %d, offset %d", s.What, s.Source, s.Partition, s.Offset)
			for _, line := range tap.Path(s.Source, s.Place) {
				say("    %s", line)
			}
		}
	}
	for _, g := range tap.Gaps() {
		say("not seen while listening: %s", g)
	}
	return nil
}
