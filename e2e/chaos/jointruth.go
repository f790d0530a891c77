package main

import (
	"context"
	"fmt"
)

// nowhere is the right place of a left row that meets nobody.
var nowhere = Place{-1, -1}

// Pair is the two records that a row of the table is made of.
type Pair struct{ Left, Right Place }

func (p Pair) String() string {
	if p.Right == nowhere {
		return fmt.Sprintf("left %d:%d alone", p.Left.Partition, p.Left.Offset)
	}
	return fmt.Sprintf("left %d:%d with right %d:%d", p.Left.Partition, p.Left.Offset, p.Right.Partition, p.Right.Offset)
}

// Sides is what the topics of a joinJob hold: the only thing that the table is compared with.
type Sides struct {
	kind  joinKind
	kafka string
	twice uint64 // records that Kafka holds twice, from a producer's retry

	left, right map[Place]JoinEvent // of those that are deduplicated the first copies
	want        map[Pair]struct{}
	counts      Counts
}

// readSides reads the topics. sent is how many records were handed over and acknowledged.
func readSides(ctx context.Context, kind joinKind, kafka string, sent uint64) (*Sides, error) {
	s := &Sides{kind: kind, kafka: kafka, left: map[Place]JoinEvent{}, right: map[Place]JoinEvent{}}
	acked := newAcknowledged(sent)
	known, users := map[uint64]bool{}, map[uint64]bool{}
	for _, t := range []Topic{leftTopic, rightTopic} {
		err := each(ctx, kafka, t.Name, func(value []byte, p Place) error {
			e, err := parseJoinEvent(t == rightTopic, value)
			if err != nil {
				return err
			}
			acked.add(e.N)
			s.counts.RecordsIn++
			switch {
			case e.Right && kind.Both && users[e.User]:
				s.counts.Duplicates++
			case e.Right:
				users[e.User] = e.User > 0
				s.right[p] = e
			case known[e.ID]:
				s.counts.Duplicates++
			default:
				known[e.ID] = true
				s.left[p] = e
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	s.twice = acked.twice
	s.match()
	return s, acked.whole()
}

// match finds what belongs together: every left row with those right rows of its key that the kind of join gives it, and alone if there is
// none and the join is a LEFT one.
func (s *Sides) match() {
	s.want = map[Pair]struct{}{}
	byUser := map[uint64][]Place{}
	for p, r := range s.right {
		if r.User > 0 {
			byUser[r.User] = append(byUser[r.User], p)
		}
	}
	met := map[Place]bool{}
	for p, l := range s.left {
		alone := true
		for _, q := range s.kind.partners(l, byUser[l.User], func(q Place) JoinEvent { return s.right[q] }) { // none for no key
			s.want[Pair{p, q}] = struct{}{}
			met[q], alone = true, false
		}
		switch {
		case !alone:
			s.counts.Matched++
		case s.kind.Inner:
			s.counts.Dropped++
		default:
			s.want[Pair{p, nowhere}] = struct{}{}
			s.counts.Unmatched++
		}
	}
	for p, r := range s.right { // of a LOOKUP's right rows only those without a key are dropped
		if r.User == 0 || !s.kind.Lookup && !met[p] {
			s.counts.Dropped++
		}
	}
	s.counts.RowsOut = uint64(len(s.want))
}

// Counts are what the status must say: nothing late, whatever was done to whom.
func (s *Sides) Counts() Counts { return s.counts }

// Records is what there is to say of them.
func (s *Sides) Records() string {
	return fmt.Sprintf("%v: records %d (%d twice by the producer's retries), left %d of which %d matched, right %d, %d dropped for meeting nobody, rows that must be %d",
		s.kind, s.counts.RecordsIn, s.twice, len(s.left), s.counts.Matched, len(s.right), s.counts.Dropped, len(s.want))
}

// sightings returns the records that belong to some left events: their copies, and the right ones with their keys.
func (s *Sides) sightings(ctx context.Context, ids map[uint64]bool) (map[uint64][]Sighting, error) {
	out, users := map[uint64][]Sighting{}, map[uint64][]uint64{}
	for _, e := range s.left {
		if ids[e.ID] && e.User > 0 {
			users[e.User] = append(users[e.User], e.ID)
		}
	}
	for _, t := range []Topic{leftTopic, rightTopic} {
		err := each(ctx, s.kafka, t.Name, func(value []byte, p Place) error {
			e, err := parseJoinEvent(t == rightTopic, value)
			if err != nil {
				return err
			}
			of := users[e.User]
			if !e.Right {
				of = []uint64{e.ID}
			}
			for _, id := range of {
				if ids[id] {
					out[id] = append(out[id], Sighting{fmt.Sprintf("%+v", e), t.Name, p})
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
