package main

import (
	"context"
	"time"
)

// Joined is a row of the table of a joinJob.
type Joined struct {
	ID, N     uint64
	Text      string
	User      *string
	At        time.Time
	Left      Place
	RightN    *uint64
	RightText string
	RightAt   *time.Time
	Right     Place
}

// joinVerdict compares the table with the truth, row by row.
type joinVerdict struct {
	*Verdict
	truth *Sides
	seen  map[Pair]struct{}
}

func newJoinVerdict(s *Sides) *joinVerdict {
	v := &joinVerdict{newVerdict("left event"), s, map[Pair]struct{}{}}
	v.sightings = s.sightings
	return v
}

// Compare looks at every row of the table.
func (s *Sides) Compare(ctx context.Context, table *Table) (*Verdict, error) {
	v := newJoinVerdict(s)
	err := table.each(ctx, `SELECT id, n, text, user, at, left_partition, left_offset, right_n, right_text, right_at, right_partition, right_offset
		FROM events`, func(scan func(...any) error) error {
		var r Joined
		err := scan(&r.ID, &r.N, &r.Text, &r.User, &r.At, &r.Left.Partition, &r.Left.Offset,
			&r.RightN, &r.RightText, &r.RightAt, &r.Right.Partition, &r.Right.Offset)
		if err == nil {
			v.Add(r)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	v.Finish()
	return v.Verdict, nil
}

// Add takes one row of the table.
func (v *joinVerdict) Add(r Joined) {
	v.Rows++
	pair := Pair{r.Left, r.Right}
	if _, wanted := v.truth.want[pair]; !wanted {
		v.Wrong++
		v.offends(r.ID, "a row that must not be: %v", pair)
		return
	}
	if _, again := v.seen[pair]; again {
		v.Repeated++
		v.offends(r.ID, "another row: %v", pair)
	}
	v.seen[pair] = struct{}{}
	if !v.whole(r) {
		v.Wrong++
		v.offends(r.ID, "row %+v is not, whole, what its records say: %v", r, pair)
	}
}

// whole tells whether every column says what the row's records do.
func (v *joinVerdict) whole(r Joined) bool {
	l := v.truth.left[r.Left]
	ok := r.ID == l.ID && r.N == l.N && r.Text == l.Text() && r.At.Equal(l.At) && (r.User != nil) == (l.User > 0) &&
		(r.User == nil || *r.User == userName(l.User))
	if r.Right == nowhere {
		return ok && r.RightN == nil && r.RightAt == nil && r.RightText == "nobody"
	}
	right := v.truth.right[r.Right]
	return ok && r.RightN != nil && *r.RightN == right.N && r.RightText == right.Text() && r.RightAt != nil && r.RightAt.Equal(right.At)
}

// Finish looks for what is not there.
func (v *joinVerdict) Finish() {
	for pair := range v.truth.want {
		if _, there := v.seen[pair]; !there {
			v.Lost++
			v.offends(v.truth.left[pair.Left].ID, "no row: %v", pair)
		}
	}
}
