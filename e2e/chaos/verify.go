package main

import (
	"context"
	"fmt"
	"slices"
)

// maxOffending bounds the events whose path is printed.
const maxOffending = 8

// Row is a row of the table.
type Row struct {
	ID, N     uint64
	Text      string
	Partition int32
	Offset    int64
}

// Verdict compares the table with the truth, row by row.
type Verdict struct {
	truth *Truth
	count []uint8 // rows by id, up to 255

	Rows     uint64
	Lost     uint64 // events whose first occurrence is not in the table
	Repeated uint64 // rows of an event beyond its first
	Wrong    uint64 // rows that are not, whole, the first occurrence of their event

	offending map[uint64][]string // what is wrong, by id; at most maxOffending
}

func newVerdict(t *Truth) *Verdict {
	return &Verdict{truth: t, count: make([]uint8, len(t.First)), offending: map[uint64][]string{}}
}

// Add takes one row of the table.
func (v *Verdict) Add(r Row) {
	v.Rows++
	if r.ID >= uint64(len(v.count)) || v.truth.First[r.ID].N == 0 {
		v.Wrong++
		v.offends(r.ID, "row %+v is of no event that Kafka holds", r)
		return
	}
	if v.count[r.ID] > 0 {
		v.Repeated++
		v.offends(r.ID, "another row: %+v", r)
	}
	first := v.truth.First[r.ID]
	if r.N != first.N || r.Text != (Event{ID: r.ID, N: r.N}).Text() || r.Partition != first.Partition || r.Offset != first.Offset {
		v.Wrong++
		v.offends(r.ID, "row %+v is not the first occurrence, %+v", r, first)
	}
	if v.count[r.ID] < 255 {
		v.count[r.ID]++
	}
}

// Finish looks for what is not there. OK tells whether the table is exactly what it should be.
func (v *Verdict) Finish() (ok bool) {
	for id, c := range v.truth.First {
		if c.N != 0 && v.count[id] == 0 {
			v.Lost++
			v.offends(uint64(id), "no row; its first occurrence is %+v", c)
		}
	}
	return v.Lost == 0 && v.Repeated == 0 && v.Wrong == 0
}

func (v *Verdict) offends(id uint64, format string, args ...any) {
	if _, known := v.offending[id]; known || len(v.offending) < maxOffending {
		v.offending[id] = append(v.offending[id], fmt.Sprintf(format, args...))
	}
}

// Explain prints the offending events with their path through the logs.
func (v *Verdict) Explain(ctx context.Context, kafka string, tap *Tap, say func(string, ...any)) error {
	ids := map[uint64]bool{}
	var order []uint64
	for id := range v.offending {
		ids[id] = true
		order = append(order, id)
	}
	slices.Sort(order)
	all, err := copies(ctx, kafka, ids)
	if err != nil {
		return err
	}
	for _, id := range order {
		say("event %d:", id)
		for _, w := range v.offending[id] {
			say("  %s", w)
		}
		for _, c := range all[id] {
			say("  copy %d: Kafka partition %d, offset %d", c.N, c.Partition, c.Offset)
			for _, line := range tap.Path(c.Partition, c.Offset) {
				say("    %s", line)
			}
		}
	}
	for _, g := range tap.Gaps() {
		say("not seen while listening: %s", g)
	}
	return nil
}
