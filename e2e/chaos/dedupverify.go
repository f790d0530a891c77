package main

// Row is a row of the table of a dedupJob.
type Row struct {
	ID, N     uint64
	Text      string
	Partition int32
	Offset    int64
}

// dedupVerdict compares the table with the truth, row by row.
type dedupVerdict struct {
	*Verdict
	truth *Events
	count []uint8 // rows by id, up to 255
}

func newDedupVerdict(t *Events) *dedupVerdict {
	return &dedupVerdict{Verdict: newVerdict("event"), truth: t, count: make([]uint8, len(t.First))}
}

// Add takes one row of the table.
func (v *dedupVerdict) Add(r Row) {
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

// Finish looks for what is not there.
func (v *dedupVerdict) Finish() {
	for id, c := range v.truth.First {
		if c.N != 0 && v.count[id] == 0 {
			v.Lost++
			v.offends(uint64(id), "no row; its first occurrence is %+v", c)
		}
	}
}
