package ingestor

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

// topicID is Kafka's id of one incarnation of a topic. A topic deleted and made anew has another.
type topicID = [16]byte

// token is the position that a lane message covers: every record of that incarnation before next
// that belongs to the lane is in the log. rewinds tells the offsets that Kafka gave out again after
// it had lost the end of a partition from those before.
func token(id topicID, next int64, rewinds uint32) string {
	text := hex.EncodeToString(id[:]) + "/" + strconv.FormatInt(next, 10)
	if rewinds > 0 {
		text += "/" + strconv.FormatUint(uint64(rewinds), 10)
	}
	return text
}

func parseToken(text string) (id topicID, next int64, rewinds uint32, err error) {
	parts := strings.Split(text, "/")
	bad := fmt.Errorf("position %q in the log is not a topic id and an offset", text)
	if len(parts) != 2 && len(parts) != 3 {
		return id, 0, 0, bad
	}
	raw, err := hex.DecodeString(parts[0])
	if err != nil || len(raw) != len(id) {
		return id, 0, 0, bad
	}
	copy(id[:], raw)
	if next, err = strconv.ParseInt(parts[1], 10, 64); err != nil {
		return id, 0, 0, bad
	}
	if len(parts) == 3 {
		n, err := strconv.ParseUint(parts[2], 10, 32)
		if err != nil {
			return id, 0, 0, bad
		}
		rewinds = uint32(n)
	}
	return id, next, rewinds, nil
}

// position is where a partition's writer stands.
type position struct {
	seen       int64 // how far it had been read before the log went back; 0: never
	seenEnd    int64 // where the partition ended when that was found
	id         topicID
	next       int64       // everything before it is in all lanes and in the dead-letter log
	tally      batch.Tally // counted up to next
	lanes      []int64     // by lane of the set: records before it are in that lane's log; never less than next
	from       int         // first lane of the set
	before     before
	changed    bool  // the log does not say yet that the writer goes on in this set
	maxEvent   int64 // largest event time before next, if hasMax; only with a join
	hasMax     bool
	lastRecord int64 // as the fence said it: when the last record was read, in milliseconds since 1970; 0 = not known

	dead     int64 // dead letters of records before it are in the dead-letter log
	lettered int64 // behind the last dead letter that was ever in the log; 0: there was none
	missing  lostLetters
	// generation of the pipeline's record.
	generation uint64

	fresh bool // nothing is in the log yet for this incarnation of the topic

	rewinds   uint32 // see token
	rewoundTo int64
	loss      loss
}

// loss is what Kafka no longer had when its turn came. It stays in the position for good.
type loss struct {
	offsets uint64 // how many in all
	text    string // the last one, in words
	ms      int64  // when that was found
}

func (p position) token() string { return token(p.id, p.next, p.rewinds) }

// recoverPosition works out where a writer goes on from what the logs say of its past. first is
// where a partition begins that has no past in this incarnation of the topic.
func recoverPosition(id topicID, first int64, sets laneSets, log fencedlog.Recovered, deadLetter string) (position, error) {
	pos := position{id: id, next: first, lanes: make([]int64, sets.current.Count), from: sets.current.First, fresh: true}
	var settled eventv1.IngestPosition
	if err := proto.Unmarshal(log.Body, &settled); err != nil {
		return position{}, fmt.Errorf("read the settled position: %w", err)
	}
	from, err := sets.written(log.Body != nil, &settled)
	if err != nil {
		return position{}, err
	}
	pos.changed = from != pos.from
	if log.Body != nil {
		// Counts go on when the topic was made anew; offsets do not.
		pos.tally = batch.TallyOf(settled.GetTally())
		pos.loss = loss{settled.GetLostOffsets(), settled.GetLastLoss(), settled.GetLastLossMs()}
		pos.maxEvent, pos.hasMax = settled.GetMaxEventMs(), settled.MaxEventMs != nil
		if bytes.Equal(settled.GetTopicId(), id[:]) {
			pos.next, pos.fresh = settled.GetNextOffset(), false
			pos.lastRecord = settled.GetLastRecordMs()
			pos.seen, pos.seenEnd = settled.GetSeenOffset(), settled.GetSeenEnd()
			pos.rewinds, pos.rewoundTo = settled.GetRewinds(), settled.GetRewoundTo()
		}
	}
	for i, lane := range sets.current.Lanes() {
		next, err := pos.advanced(log.Last[lane].Position)
		if err != nil {
			return position{}, err
		}
		pos.lanes[i] = next
	}
	if pos.before, err = pos.recoverBefore(&settled, sets, log); err != nil {
		return position{}, err
	}
	if pos.dead, err = pos.advanced(deadLetter); err != nil {
		return position{}, err
	}
	if err := pos.recoverLetters(max(0, lettersOf(&settled, id)), first, deadLetter); err != nil {
		return position{}, err
	}
	return pos, nil
}

// lettersOf is the offset behind the last dead letter that a fence tells of.
func lettersOf(settled *eventv1.IngestPosition, id topicID) int64 {
	if !bytes.Equal(settled.GetTopicId(), id[:]) {
		return 0
	}
	return settled.GetLettersOffset()
}

// advanced is how far a message's token says that things have come; never less than next.
func (p position) advanced(text string) (int64, error) {
	next, err := p.reached(text)
	return max(next, p.next), err
}

// reached is the offset in a message's token, 0 when it says nothing about these offsets.
func (p position) reached(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	id, next, rewinds, err := parseToken(text)
	switch {
	case err != nil:
		return 0, err
	case id != p.id:
		return 0, nil // an earlier incarnation
	case rewinds == p.rewinds:
		return next, nil
	case rewinds+1 == p.rewinds:
		return min(next, p.rewoundTo), nil
	}
	return 0, nil
}

// highest is the offset before which something may be in the logs.
func (p position) highest() int64 {
	return max(p.next, p.dead, slices.Max(p.lanes), p.before.highest())
}

// fit brings the position into what Kafka has: [earliest, end). It tells whether it had to, and with
// that that the position must be settled before anything is read.
func (p *position) fit(topic string, partition int32, earliest, end int64, now time.Time) bool {
	if highest := p.highest(); highest > end {
		// The same offsets will be given out again, to other records.
		p.rewinds, p.rewoundTo = p.rewinds+1, end
		p.next, p.dead = min(p.next, end), min(p.dead, end)
		for i := range p.lanes {
			p.lanes[i] = min(p.lanes[i], end)
		}
		p.before.cut(end)
		if p.missing.to = min(p.missing.to, end); p.missing.any() {
			p.lettered = p.missing.to
		} else {
			p.lettered = 0 // letters of other records
		}
		p.loss.text = fmt.Sprintf("Kafka lost the end of partition %d of %s: it had been read up to offset %d and ended at %d; reading goes on from there",
			partition, topic, highest-1, end)
		p.loss.ms = now.UnixMilli()
		return true
	}
	if p.next < earliest {
		p.loss.offsets += uint64(earliest - p.next)
		p.loss.text = fmt.Sprintf("offsets %d to %d of partition %d of %s expired in Kafka before they were read",
			p.next, earliest-1, partition, topic)
		p.loss.ms = now.UnixMilli()
		p.next, p.dead = earliest, max(p.dead, earliest)
		for i := range p.lanes {
			p.lanes[i] = max(p.lanes[i], earliest)
		}
		return true
	}
	return false
}

// wentBack notes that the log had been further than it is: an offset is committed only once a fence says it. It tells whether that is new.
func (p *position) wentBack(pipeline, topic string, partition int32, at bounds, now time.Time) bool {
	id, committed, ours := at.committed.Of(pipeline)
	if ours && !bytes.Equal(id, p.id[:]) || !ours && p.fresh {
		return false // of another incarnation of the topic, or another's
	}
	if committed <= max(p.next, p.seen) || committed > at.end {
		return false
	}
	p.seen, p.seenEnd = committed, at.end
	has := fmt.Sprintf("has it up to %d", p.next-1)
	if p.fresh {
		has = "has nothing of it"
	}
	p.loss.text = fmt.Sprintf("the ingest log lost its tail: partition %d of %s had been read up to offset %d, and the log %s; it is read again from offset %d",
		partition, topic, p.seen-1, has, p.next)
	p.loss.ms = now.UnixMilli()
	return true
}

// body is the position as the fence carries it.
func (p position) body(topic string, partition int32) ([]byte, error) {
	body := &eventv1.IngestPosition{
		Topic: topic, TopicId: p.id[:], Partition: partition, NextOffset: p.next, Tally: p.tally.Proto(),
		Rewinds: p.rewinds, RewoundTo: p.rewoundTo,
		LostOffsets: p.loss.offsets, LastLoss: p.loss.text, LastLossMs: p.loss.ms,
		LastRecordMs: p.lastRecord, SeenOffset: p.seen, SeenEnd: p.seenEnd, LanesFrom: uint32(p.from),
		LettersOffset: p.lettered, Generation: p.generation,
	}
	if p.before.highest() > p.next {
		body.BeforeFrom, body.BeforeOffsets = uint32(p.before.first), p.before.offsets
	}
	if p.hasMax {
		body.MaxEventMs = &p.maxEvent
	}
	return proto.Marshal(body)
}

// saw takes note of an event's time.
func (p *position) saw(ms int64) {
	if !p.hasMax || ms > p.maxEvent {
		p.maxEvent, p.hasMax = ms, true
	}
}

// firstOffset is where a partition without a past begins: where control pinned it when the
// pipeline was made, else at the earliest record.
func firstOffset(rec *controlv1.PipelineRecord, source string, id topicID, partition int32, earliest int64) int64 {
	start := rec.GetStartOffsets()
	if source != "" {
		start = rec.GetSourceStartOffsets()[source]
	}
	if !bytes.Equal(start.GetTopicId(), id[:]) {
		return earliest
	}
	if pinned, ok := start.GetOffsets()[partition]; ok {
		return pinned // also when it has expired since: that is a loss
	}
	return earliest
}
