package sink

import (
	"context"
	"fmt"
	"maps"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/clickhouse"
	"sluice/libs/fencedlog"
	"sluice/libs/spec"
	"sluice/services/sink/internal/block"
)

// When the whole store goes back, a join puts out again what is in the table, in another order: its messages say of each row which two records it was made of.
// A row can be in the table only if all of them had been read before. That is known up to the offsets that were committed to Kafka, which happens every second
// or so; what was read after that may have come as far as the table, too.

// uncommitted is how many offsets of a partition may have been read beyond the one that is committed. If it was fewer, some rows more are looked for.
const uncommitted = 1 << 18

// joinedOffsets are, by side and partition, how far the records had been read.
type joinedOffsets [2]map[int32]int64

func (o joinedOffsets) any() bool { return len(o[spec.Left]) > 0 || len(o[spec.Right]) > 0 }

// may tells whether a row may be in the table.
func (o joinedOffsets) may(row batch.Origin) bool {
	return row.LeftOffset < o[spec.Left][row.LeftPartition]+uncommitted &&
		(row.RightPartition == batch.NoRight || row.RightOffset < o[spec.Right][row.RightPartition]+uncommitted)
}

// rereadJoin is reread for a join's log. What is found is kept in the position: rows of then may come for as long as any wait.
func (l *lane) rereadJoin(ctx context.Context, s *suspicion) error {
	have, err := batch.TakenOf(l.joined)
	if err != nil {
		return fmt.Errorf("the lane's position: %w", err)
	}
	fences, err := l.seen(ctx)
	if err != nil {
		return err
	}
	found, ahead, why := map[string]int64{}, false, ""
	for writer, at := range fences {
		next := have.Next(at.GetPartition(), at.GetTopicId())
		switch {
		case at.GetSeenOffset() <= l.seenOffsets[writer]: // known, or never
		case next >= at.GetSeenOffset():
			ahead = true
		default:
			found[writer] = at.GetSeenOffset()
			why = fmt.Sprintf("the store went back: partition %d of %s had been read up to offset %d, and what lane %d has of the join was made of offsets up to %d",
				at.GetPartition(), at.GetTopic(), at.GetSeenOffset()-1, l.index, next-1)
		}
	}
	// All that is in the store goes back together: a lane that has one partition as far as it ever was has not.
	if len(found) > 0 && !ahead {
		s.because(why)
		s.because("a row that equals another in all columns counts as that")
		seen := maps.Clone(l.seenOffsets)
		if seen == nil {
			seen = map[string]int64{}
		}
		maps.Copy(seen, found)
		l.seenOffsets = seen
	}
	for _, b := range spec.Branches(l.record.GetSpec()) {
		for writer, at := range fences {
			if seen := l.seenOffsets[writer]; seen > 0 && writer == fencedlog.IngestWriter(b.Source, at.GetPartition()) {
				if s.joined[b.Side] == nil {
					s.joined[b.Side] = map[int32]int64{}
				}
				s.joined[b.Side][at.GetPartition()] = seen
			}
		}
	}
	return nil
}

// allRead takes all records that were read by now for such as may be in the table: what the lane has sent beyond its position, of messages that the log has lost, was made
// of some of them.
func (l *lane) allRead(ctx context.Context) error {
	fences, err := l.seen(ctx)
	if err != nil {
		return err
	}
	seen := maps.Clone(l.seenOffsets)
	if seen == nil {
		seen = map[string]int64{}
	}
	for writer, at := range fences {
		seen[writer] = max(seen[writer], at.GetNextOffset(), at.GetSeenOffset())
	}
	l.seenOffsets = seen
	return nil
}

// joinTook notes what the join had taken when it put out a message.
func joinTook(to *batch.Taken, v *batch.View) error {
	if len(v.JoinPast) == 0 {
		return nil
	}
	var past eventv1.JoinPast
	if err := proto.Unmarshal(v.JoinPast, &past); err != nil {
		return fmt.Errorf("what the join had taken: %w", err)
	}
	for _, m := range []map[string]*eventv1.Taken{past.GetTaken(), past.GetOwn()} {
		taken, err := batch.TakenOf(m)
		if err != nil {
			return fmt.Errorf("what the join had taken: %w", err)
		}
		to.Add(taken)
	}
	return nil
}

func appendOrigins(dst []batch.Origin, v *batch.View, keep []byte) []batch.Origin {
	for row := range v.Rows {
		if keep == nil || keep[row/8]>>(row%8)&1 == 1 {
			dst = append(dst, v.Origin(row))
		}
	}
	return dst
}

// siftJoined is sift for a join's rows: only those are looked for that may be in the table. After a crash it finds those that were sent.
func (s *sending) siftJoined(g *group, r block.Range, what *clickhouse.Insert, d *doubt) (done bool, err error) {
	w := s.lane.suspicion
	var candidates []int // of the range
	for row := r.From; row < r.To; row++ {
		if w.joined.may(g.origins[row]) || w.again.holds(g.origins[row]) {
			candidates = append(candidates, row-r.From)
		}
	}
	if len(candidates) == 0 {
		return false, nil
	}
	look := *what
	if look.Columns, err = s.kept(g, r.From, candidates); err != nil {
		return false, err
	}
	lacks, err := s.absent(look)
	if err != nil {
		return false, err
	}
	found := make(map[int]bool, len(candidates))
	for _, row := range candidates {
		found[row] = true
	}
	for _, i := range lacks {
		delete(found, candidates[i])
	}
	s.look(r, found)
	if len(found) == 0 {
		return false, nil
	}
	w.clean, w.found = false, w.found+uint64(len(found))
	rows := make([]int, 0, r.Rows()-len(found))
	for row := range r.Rows() {
		if !found[row] {
			rows = append(rows, row)
		}
	}
	return s.leave(g, r, rows, what, d)
}
