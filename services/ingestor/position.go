package ingestor

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

// topicID is Kafka's id of one incarnation of a topic. A topic deleted and made anew has another.
type topicID = [16]byte

// token is the position that a lane message covers: every record of that incarnation before next
// that belongs to the lane is in the log.
func token(id topicID, next int64) string {
	return hex.EncodeToString(id[:]) + "/" + strconv.FormatInt(next, 10)
}

func parseToken(text string) (id topicID, next int64, err error) {
	idText, nextText, ok := strings.Cut(text, "/")
	if ok {
		var raw []byte
		if raw, err = hex.DecodeString(idText); err == nil && len(raw) == len(id) {
			copy(id[:], raw)
			next, err = strconv.ParseInt(nextText, 10, 64)
			if err == nil {
				return id, next, nil
			}
		}
	}
	return id, 0, fmt.Errorf("position %q in the log is not a topic id and an offset", text)
}

// position is where a partition's writer stands.
type position struct {
	id    topicID
	next  int64       // everything before it is in all lanes and in the dead-letter log
	tally batch.Tally // counted up to next
	lanes []int64     // by lane: records before it are in that lane's log; never less than next
	dead  int64       // dead letters of records before it are in the dead-letter log
	fresh bool        // nothing is in the log yet for this incarnation of the topic
}

// recoverPosition works out where a writer goes on from what the logs say of its past. first is
// where a partition begins that has no past in this incarnation of the topic.
func recoverPosition(id topicID, first int64, lanes int, log fencedlog.Recovered, deadLetter string) (position, error) {
	pos := position{id: id, next: first, lanes: make([]int64, lanes), fresh: true}
	if log.Body != nil {
		var settled eventv1.IngestPosition
		if err := proto.Unmarshal(log.Body, &settled); err != nil {
			return position{}, fmt.Errorf("read the settled position: %w", err)
		}
		// Counts go on when the topic was made anew; offsets do not.
		pos.tally = batch.TallyOf(settled.GetTally())
		if bytes.Equal(settled.GetTopicId(), id[:]) {
			pos.next, pos.fresh = settled.GetNextOffset(), false
		}
	}
	advanced := func(text string) (int64, error) {
		if text == "" {
			return pos.next, nil
		}
		of, next, err := parseToken(text)
		if err != nil {
			return 0, err
		}
		if of != id {
			return pos.next, nil // an earlier incarnation
		}
		return max(next, pos.next), nil
	}
	for lane := range lanes {
		next, err := advanced(log.Last[lane].Position)
		if err != nil {
			return position{}, err
		}
		pos.lanes[lane] = next
	}
	var err error
	if pos.dead, err = advanced(deadLetter); err != nil {
		return position{}, err
	}
	return pos, nil
}

// body is the position as the fence carries it.
func (p position) body(topic string, partition int32) ([]byte, error) {
	return proto.Marshal(&eventv1.IngestPosition{
		Topic: topic, TopicId: p.id[:], Partition: partition, NextOffset: p.next, Tally: p.tally.Proto(),
	})
}

// firstOffset is where a partition without a past begins: where control pinned it when the
// pipeline was made, else at the earliest record.
func firstOffset(rec *controlv1.PipelineRecord, id topicID, partition int32, earliest int64) int64 {
	start := rec.GetStartOffsets()
	if !bytes.Equal(start.GetTopicId(), id[:]) {
		return earliest
	}
	if pinned, ok := start.GetOffsets()[partition]; ok {
		return max(pinned, earliest)
	}
	return earliest
}
