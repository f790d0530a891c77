package control

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/spec"
)

// The lag goes by what the stages have counted. Once a log has lost its tail, or a position went back, their counts may differ for good: what one has counted may be gone
// under the other. Then durable positions tell whether anything is on its way, some seconds later than counts would.

// healed tells whether a unit has healed from a loss: one that works has nothing else to complain of.
func healed(units []*stagev1.UnitStatus) bool {
	for _, u := range units {
		if u.GetHealedRows() > 0 || u.GetCondition() == stagev1.UnitStatus_RUNNING && u.GetLastError() != "" {
			return true
		}
	}
	return false
}

// passage is how far what was in a pipeline's logs at some moment has come. Logs never stand still where partitions say that they are idle, so
// it is not their ends of now that positions are held against.
type passage struct {
	since uint64         // digest of how far the ingestor was then, and of what the units had healed from
	stage int            // whose lanes are to pass the ends
	ends  map[int]uint64 // of its input's lanes, once all before had come through
}

// passages are those of the pipelines by uid.
type passages struct {
	mu    sync.Mutex
	byUID map[string]*passage // guarded by mu
}

// lagOfHealed corrects the lag of a pipeline that has healed.
func (s *Service) lagOfHealed(ctx context.Context, rec *controlv1.PipelineRecord, units []*stagev1.UnitStatus, st summed) error {
	if st.waiting > 0 || !st.begun {
		st.Lag = max(st.Lag, uint64(st.waiting))
		return nil
	}
	var since uint64
	for _, u := range units {
		since += digest(u)
	}
	if st.inLogs == 0 { // they match all the same
		if there, err := s.atEnds(ctx, rec); there || err != nil {
			return err
		}
	}
	s.passages.mu.Lock()
	defer s.passages.mu.Unlock()
	p := s.passages.byUID[rec.GetUid()]
	if p == nil || p.since != since {
		if s.passages.byUID == nil || len(s.passages.byUID) >= maxLags {
			s.passages.byUID = map[string]*passage{}
		}
		p = &passage{since: since}
		s.passages.byUID[rec.GetUid()] = p
	}
	through, err := p.advance(ctx, s.js, rec)
	switch {
	case err != nil:
		return err
	case through:
		st.Lag = 0
	default:
		st.Lag = max(st.Lag, 1)
	}
	return nil
}

// atEnds tells whether all units say that they have come to the ends of their logs. What they have made of it may not be in the next log yet, but then it is not counted by the
// next stage either.
func (s *Service) atEnds(ctx context.Context, rec *controlv1.PipelineRecord) (bool, error) {
	stages := spec.Stages(rec.GetSpec())
	left := map[unitName]uint64{}
	for i, stage := range stages[1:] {
		ends, err := endsOf(ctx, s.js, rec, stages[i])
		if err != nil {
			return false, err
		}
		for lane, end := range ends {
			left[unitName{stage: stage, unit: uint32(lane)}] = end
		}
	}
	// The order matters: the ends first, the reports then.
	units, err := s.units(ctx, rec)
	if err != nil {
		return false, err
	}
	for _, u := range units {
		if end, ok := left[nameOf(u)]; ok && u.GetPosition() >= end {
			delete(left, nameOf(u))
		}
	}
	return len(left) == 0, nil
}

// endsOf are the ends of what a stage has put out, by lane.
func endsOf(ctx context.Context, js jetstream.JetStream, rec *controlv1.PipelineRecord, stage string) (map[int]uint64, error) {
	log := fencedlog.Log{Pipeline: rec.GetSpec().GetId(), Stage: stage}
	ends := map[int]uint64{}
	for _, lane := range spec.LiveLanes(rec) {
		end, err := fencedlog.LastOf(ctx, js, log, lane)
		if err != nil {
			return nil, err
		}
		ends[lane] = end
	}
	return ends, nil
}

// digest changes when a partition is read on, or a unit has healed from something else.
func digest(u *stagev1.UnitStatus) uint64 {
	h := fnv.New64a()
	if u.GetStage() == spec.StageIngest {
		fmt.Fprint(h, u.GetPosition())
	}
	if u.GetCondition() == stagev1.UnitStatus_RUNNING {
		fmt.Fprintf(h, "/%s/%s/%s", u.GetStage(), nameOf(u), u.GetLastError())
	}
	return h.Sum64()
}

// advance follows what was in the logs, and tells whether all of it has come to its end: a stage's position is durable once what was made of its input is.
func (p *passage) advance(ctx context.Context, js jetstream.JetStream, rec *controlv1.PipelineRecord) (through bool, err error) {
	id, stages := rec.GetSpec().GetId(), spec.Stages(rec.GetSpec())
	for ; p.stage+1 < len(stages); p.stage, p.ends = p.stage+1, nil {
		log := fencedlog.Log{Pipeline: id, Stage: stages[p.stage]}
		if p.ends == nil {
			if p.ends, err = endsOf(ctx, js, rec, stages[p.stage]); err != nil {
				return false, err
			}
		}
		for lane, end := range p.ends {
			at, err := checkpoint.ReachedBy(ctx, js, id, stages[p.stage+1], lane)
			if err != nil {
				return false, err
			}
			if at.Closed {
				continue
			}
			if at.Sequence < end {
				out, err := putOut(ctx, js, rec, stages[p.stage+1], lane, at.Epoch, end)
				if err != nil || !out {
					return false, err
				}
			}
			// One that has yet to notice a loss has numbers of before.
			err = fencedlog.Verify(ctx, js, log, at.Sequence, at.Time)
			if err != nil {
				if errors.Is(err, fencedlog.ErrTailLost) {
					err = nil
				}
				return false, err
			}
		}
	}
	return true, nil
}

// putOut tells whether a lane of dedup has put out what it made of its input up to a sequence, which its checkpoint says some seconds later: without a join every batch is put out,
// if only to say that nothing is left of it.
func putOut(ctx context.Context, js jetstream.JetStream, rec *controlv1.PipelineRecord, stage string, lane int, epoch uint32, sequence uint64) (bool, error) {
	if stage != spec.StageDedup || rec.GetSpec().GetJoin() != nil {
		return false, nil
	}
	last, err := fencedlog.LastMessage(ctx, js, fencedlog.Log{Pipeline: rec.GetSpec().GetId(), Stage: stage}, lane, strconv.Itoa(lane))
	if err != nil || last.Sequence == 0 {
		return false, err
	}
	return fold.Through(last.Position, epoch, sequence)
}
