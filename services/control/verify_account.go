package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/ledger"
	"sluice/libs/spec"
)

const (
	// accountTries is how often counts that do not fit are taken anew before they are a finding, accountPause how far apart.
	accountTries = 4
	accountPause = time.Second
)

// accounts is what the stages have counted, each as far as is known to be durable or reported.
type accounts struct {
	partitions []*partitionAccount
	lanes      map[string][]laneAccount // by stage; without the ingestor
	letters    map[string]uint64        // in the dead-letter log, by stage
	lettersAll bool                     // the dead-letter log has all that was ever written to it
	healed     bool
	sink       positions
	ledger     *ledger.Ledger
	gap        string // why the ledger does not tell of every row
}

// partitionAccount is what the ingestor has counted of a partition.
type partitionAccount struct {
	source, topic string
	partition     int32
	next          int64
	tally         batch.Tally
}

// laneAccount is what a stage has counted of a lane, up to a message of its upstream log.
type laneAccount struct {
	covered uint64
	tally   batch.Tally
	// end is the last message for the lane in the upstream log. The lane is through if it covers that.
	end uint64
}

// newer takes a report of the same writer if it counts more.
func (a *laneAccount) newer(covered uint64, t *eventv1.Tally) {
	if covered >= a.covered {
		a.covered, a.tally = covered, batch.TallyOf(t)
	}
}

// account holds the counts of the stages against each other. What is on its way between two stages is not yet counted by the
// second, and reports of the stages are some seconds old at worst: only what does not fit while all stands still is wrong.
func (v *verifier) account(ctx context.Context) error {
	a, err := v.service.accounts(ctx, v.rec)
	if err != nil {
		return err
	}
	wrong, underway := a.audit(v.rec.GetSpec())
	stood := false
	for try := 1; len(wrong) > 0 && try < accountTries; try++ {
		if err := pause(ctx, accountPause); err != nil {
			return err
		}
		before := a.volume()
		if a, err = v.service.accounts(ctx, v.rec); err != nil {
			return err
		}
		wrong, underway = a.audit(v.rec.GetSpec())
		stood = a.volume() == before
	}
	v.list(a)
	switch {
	case len(wrong) > 0 && a.healed:
		v.limit("a log had lost its tail and was healed, so counts may be off: %s", strings.Join(wrong, "; "))
	case len(wrong) > 0 && stood:
		v.result.Findings = append(v.result.Findings, wrong...)
	case len(wrong) > 0 || underway != "":
		v.limit("%s: the counts of the stages were not held against each other", cmp.Or(underway, "the pipeline is at work"))
	}
	return nil
}

// volume is a number that rises with whatever is counted.
func (a *accounts) volume() (n uint64) {
	for _, p := range a.partitions {
		n += p.tally.Records
	}
	for _, lanes := range a.lanes {
		for _, l := range lanes {
			n += l.tally.Records + l.tally.Rows + l.tally.DeadLetters
		}
	}
	return n
}

// accounts gathers the counts, each stage's after that of the one before it, so that what a later stage has not got was
// passed on before it was asked.
func (s *Service) accounts(ctx context.Context, rec *controlv1.PipelineRecord) (*accounts, error) {
	p := rec.GetSpec()
	units, err := s.units(ctx, rec)
	if err != nil {
		return nil, err
	}
	a := &accounts{lanes: map[string][]laneAccount{}}
	if a.partitions, err = s.partitions(ctx, p, units); err != nil {
		return nil, err
	}
	for _, u := range units {
		a.healed = a.healed || u.GetHealedRows() > 0
	}
	for _, stage := range spec.Stages(p)[1:] {
		if stage == spec.StageSink {
			continue
		}
		if a.lanes[stage], err = s.laneAccounts(ctx, rec, stage, units); err != nil {
			return nil, err
		}
	}
	if a.sink, err = s.positions(ctx, rec); err != nil {
		return nil, err
	}
	for _, position := range a.sink.lanes {
		a.lanes[spec.StageSink] = append(a.lanes[spec.StageSink], laneAccount{covered: position.GetCoveredSequence(), tally: batch.TallyOf(position.GetTally())})
	}
	if a.ledger, a.gap, err = a.sink.ledger(); err != nil {
		return nil, err
	}
	for stage, lanes := range a.lanes {
		if err := s.ends(ctx, fencedlog.Log{Pipeline: p.GetId(), Stage: spec.Upstream(p, stage)}, lanes); err != nil {
			return nil, err
		}
	}
	a.letters, a.lettersAll, err = s.letters(ctx, p.GetId())
	return a, err
}

// partitions reads what the ingestor has settled, or reported since, of each partition.
func (s *Service) partitions(ctx context.Context, p *controlv1.Pipeline, units []*stagev1.UnitStatus) ([]*partitionAccount, error) {
	log := fencedlog.Log{Pipeline: p.GetId(), Stage: fencedlog.Ingest}
	stream, err := s.js.Stream(ctx, log.Stream())
	if err != nil {
		return nil, stored(ctx, fmt.Errorf("verify: the log of the ingestor: %w", err))
	}
	prefix := strings.TrimSuffix(log.AllFilter(), ">") + "fence."
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+"*"))
	if err != nil {
		return nil, stored(ctx, fmt.Errorf("verify: the log of the ingestor: %w", err))
	}
	var out []*partitionAccount
	for subject := range info.State.Subjects {
		msg, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, stored(ctx, fmt.Errorf("verify: read %s: %w", subject, err))
		}
		var settled eventv1.IngestPosition
		if err := proto.Unmarshal(msg.Data, &settled); err != nil {
			return nil, fmt.Errorf("verify: read %s: %w", subject, err)
		}
		writer := strings.TrimPrefix(subject, prefix)
		source, number := "", writer
		if at := strings.LastIndexByte(writer, '-'); at >= 0 {
			source, number = writer[:at], writer[at+1:]
		}
		partition, err := strconv.ParseInt(number, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("verify: %s is no writer of the ingestor", subject)
		}
		out = append(out, &partitionAccount{
			source: source, topic: settled.GetTopic(), partition: int32(partition), next: settled.GetNextOffset(), tally: batch.TallyOf(settled.GetTally()),
		})
	}
	for _, u := range units {
		if u.GetStage() != spec.StageIngest {
			continue
		}
		for _, one := range out {
			if one.source == u.GetSource() && one.partition == int32(u.GetUnit()) && u.GetTally().GetRecords() > one.tally.Records {
				one.next, one.tally = int64(u.GetPosition()), batch.TallyOf(u.GetTally())
			}
		}
	}
	slices.SortFunc(out, func(a, b *partitionAccount) int {
		return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(a.partition, b.partition))
	})
	return out, nil
}

// laneAccounts reads what the lanes of a stage with checkpoints have counted.
func (s *Service) laneAccounts(ctx context.Context, rec *controlv1.PipelineRecord, stage string, units []*stagev1.UnitStatus) ([]laneAccount, error) {
	kv, err := s.js.KeyValue(ctx, checkpoint.Bucket(rec.GetSpec().GetId()))
	if err != nil {
		return nil, stored(ctx, fmt.Errorf("verify: open the state bucket: %w", err))
	}
	lanes := make([]laneAccount, len(spec.EveryLane(rec)))
	for lane := range lanes {
		key := fmt.Sprintf("%s.%d.manifest", stage, lane)
		entry, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		var m eventv1.Manifest
		if err == nil {
			err = proto.Unmarshal(entry.Value(), &m)
		}
		if err != nil {
			return nil, stored(ctx, fmt.Errorf("verify: read %s: %w", key, err))
		}
		lanes[lane].newer(m.GetCoveredSequence(), m.GetTally())
	}
	for _, u := range units {
		if u.GetStage() == stage && int(u.GetUnit()) < len(lanes) {
			lanes[u.GetUnit()].newer(u.GetPosition(), u.GetTally())
		}
	}
	return lanes, nil
}

// ends finds the last message of a log for each lane.
func (s *Service) ends(ctx context.Context, log fencedlog.Log, lanes []laneAccount) error {
	stream, err := s.js.Stream(ctx, log.Stream())
	if err != nil {
		return stored(ctx, fmt.Errorf("verify: log %s: %w", log.Stage, err))
	}
	for lane := range lanes {
		msg, err := stream.GetLastMsgForSubject(ctx, log.LaneFilter(lane))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // purged, so it was covered
		}
		if err != nil {
			return stored(ctx, fmt.Errorf("verify: log %s, lane %d: %w", log.Stage, lane, err))
		}
		if lanes[lane].end = msg.Sequence; lanes[lane].covered < msg.Sequence {
			rows, err := bringsRows(ctx, stream, log.LaneFilter(lane), lanes[lane].covered)
			if err != nil {
				return stored(ctx, fmt.Errorf("verify: log %s, lane %d: %w", log.Stage, lane, err))
			}
			if !rows {
				lanes[lane].end = lanes[lane].covered
			}
		}
	}
	return nil
}

// maxHeartbeats bounds the messages of a lane that are looked into for rows. A lane reports every few seconds, so that there are not that many.
const maxHeartbeats = 1000

// bringsRows tells whether a lane's messages after a sequence have rows that go on: those of a join tell for the most part only that time goes on.
func bringsRows(ctx context.Context, stream jetstream.Stream, filter string, after uint64) (bool, error) {
	var v batch.View
	for range maxHeartbeats {
		msg, err := nextOf(ctx, stream, filter, after+1)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if err := v.Parse(msg.Data); err != nil {
			return false, fmt.Errorf("sequence %d: %w", msg.Sequence, err)
		}
		if v.Selected > 0 {
			return true, nil
		}
		after = msg.Sequence
	}
	return true, nil
}

func nextOf(ctx context.Context, stream jetstream.Stream, filter string, at uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return stream.GetMsg(ctx, at, jetstream.WithGetMsgSubject(filter))
}

// letters counts the dead letters that are in their log, by stage. all is false when messages have left the log.
func (s *Service) letters(ctx context.Context, id string) (count map[string]uint64, all bool, err error) {
	count = map[string]uint64{}
	log := fencedlog.Log{Pipeline: id, Stage: fencedlog.DeadLetters}
	stream, err := s.js.Stream(ctx, log.Stream())
	if err != nil {
		return nil, false, stored(ctx, fmt.Errorf("verify: the dead letters: %w", err))
	}
	state := stream.CachedInfo().State
	for at := state.FirstSeq; at <= state.LastSeq; {
		msg, err := nextMessage(ctx, stream, log, at)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, false, stored(ctx, fmt.Errorf("verify: the dead letters: read sequence %d: %w", at, err))
		}
		at = msg.Sequence + 1
		if fence(log, msg.Subject) {
			continue
		}
		var b eventv1.DeadLetterBatch
		if err := proto.Unmarshal(msg.Data, &b); err != nil {
			return nil, false, fmt.Errorf("verify: the dead letters: sequence %d: %w", msg.Sequence, err)
		}
		for _, l := range b.GetLetters() {
			count[l.GetStage()]++
		}
	}
	return count, state.FirstSeq <= 1 && state.NumDeleted == 0, nil
}
