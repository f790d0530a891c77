package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/libs/fold"
	"sluice/libs/kafka"
	"sluice/libs/receipts"
	"sluice/libs/spec"
)

// Here is who remembers how far a lane has come, but for its position: see suspicion.

// logs are those that the lane's rows come through. What is said there of blocks goes back only with all of them, and that Kafka's group tells.
func (l *lane) logs() (logs []fencedlog.Log) {
	for _, stage := range spec.Stages(l.record.GetSpec()) {
		if stage != stageName {
			logs = append(logs, fencedlog.Log{Pipeline: l.upstream.Pipeline, Stage: stage})
		}
	}
	return logs
}

// testify says in the logs which block the table has. That it cannot, now, is nobody's concern: the next block's word is as good.
func (l *lane) testify(block *eventv1.Receipt) {
	body, err := proto.Marshal(block)
	for _, log := range l.logs() {
		if err == nil {
			err = fencedlog.Testify(l.nats, log, stageName, l.index, body)
		}
	}
	if err != nil {
		l.log.Debug("not said in the logs", "error", err)
	}
}

// lastSent is the last block that the table is known to have, by its receipt, by what the logs say, or by what the ingestor has committed of that to Kafka, whichever is
// latest; receipted: by its receipt.
func (l *lane) lastSent(ctx context.Context) (*eventv1.Receipt, bool, error) {
	last, err := receipts.Last(ctx, l.js, l.upstream.Pipeline, l.index)
	if err != nil {
		return nil, false, err
	}
	told := []*eventv1.Receipt{last}
	for _, log := range l.logs() {
		body, err := fencedlog.Testimony(ctx, l.js, log, stageName, l.index)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, false, err
		}
		said := &eventv1.Receipt{}
		if err := proto.Unmarshal(body, said); err != nil {
			return nil, false, fmt.Errorf("what %s says of lane %d: %w", log.Stream(), l.index, err)
		}
		told = append(told, said)
	}
	best, receipted := &eventv1.Receipt{}, true
	for i, r := range append(told, l.words(ctx)...) {
		if l.ours(r) && (r.GetEpoch() > best.GetEpoch() || r.GetEpoch() == best.GetEpoch() && r.GetLastSequence() > best.GetLastSequence()) {
			best, receipted = r, i == 0
		}
	}
	return best, receipted, nil
}

// words are what Kafka's groups tell of the lane's last block.
func (l *lane) words(ctx context.Context) (out []*eventv1.Receipt) {
	for _, by := range l.committed(ctx) {
		for _, w := range by.Words(l.upstream.Pipeline) {
			if w.Lane == l.index {
				out = append(out, &eventv1.Receipt{
					Lane: uint32(w.Lane), Epoch: w.Epoch, LastSequence: w.Sequence, LastTimeNs: w.TimeNs, Token: l.name(0, 0, 0, 0).Family(),
				})
			}
		}
	}
	return out
}

// ours tells whether a receipt is of a block of this lane.
func (l *lane) ours(r *eventv1.Receipt) bool {
	return strings.HasPrefix(r.GetToken(), l.name(0, 0, 0, 0).Family())
}

// lastLetter is the place of the lane's last letter.
func (l *lane) lastLetter(ctx context.Context) (letterPosition, error) {
	log := fencedlog.Log{Pipeline: l.upstream.Pipeline, Stage: fencedlog.DeadLetters}
	text, err := fencedlog.LastPosition(ctx, l.js, log, l.index, l.letters.writerName())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return letterPosition{}, nil
	}
	if err == nil {
		text, err = deadletters.PositionOf(text)
	}
	if err != nil {
		return letterPosition{}, err
	}
	return parseLetterPosition(text)
}

// seen returns the ingestor's positions by writer, with how far each had been before the log went back, as the fence or Kafka's group says.
func (l *lane) seen(ctx context.Context) (map[string]*eventv1.IngestPosition, error) {
	committed := l.committed(ctx)
	// Only now: the ingestor writes down what it finds before the group's offset goes back.
	out, err := fold.IngestPositions(ctx, l.js, l.upstream.Pipeline)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for writer, by := range committed {
		at := out[writer]
		id, highest, ours := by.Of(l.upstream.Pipeline)
		if len(at.GetTopicId()) == 0 { // nothing at all is left of it
			if !ours {
				continue
			}
			at = &eventv1.IngestPosition{Topic: by.topic, Partition: by.partition, TopicId: id, SeenOffset: at.GetSeenOffset()}
			out[writer] = at
		}
		if highest > at.GetNextOffset() && (!ours || bytes.Equal(id, at.GetTopicId())) {
			at.SeenOffset, at.SeenEnd = max(at.GetSeenOffset(), highest), max(at.GetSeenEnd(), by.end)
		}
	}
	return out, nil
}

// committed is what a group has committed for a partition.
type committed struct {
	kafka.Committed
	topic     string
	partition int32
	end       int64 // of the partition
}

// committed returns what the pipeline's groups have committed to Kafka, by writer of the ingest log, as far as that can be told within a while.
func (l *lane) committed(ctx context.Context) map[string]committed {
	if time.Since(l.asked) < askAgain {
		return l.group
	}
	ctx, cancel := context.WithTimeout(ctx, committedTimeout)
	defer cancel()
	found := map[string]committed{}
	l.unsure = false
	for _, b := range spec.Branches(l.record.GetSpec()) {
		at := b.Spec.GetKafka()
		cluster, err := kafka.Open(ctx, at, "sluice-sink-"+l.record.GetSpec().GetId())
		if err == nil {
			var offsets map[int32]kafka.Committed
			var ends map[int32]int64
			if offsets, err = cluster.CommittedOffsets(ctx, at.GetGroup(), at.GetTopic()); err == nil && len(offsets) > 0 {
				ends, err = cluster.EndOffsets(ctx, at.GetTopic(), controlv1.Isolation_READ_UNCOMMITTED)
			}
			cluster.Close()
			if err == nil {
				for partition, by := range offsets {
					found[fencedlog.IngestWriter(b.Source, partition)] = committed{by, at.GetTopic(), partition, ends[partition]}
				}
			}
		}
		if err != nil {
			l.unsure = true
			l.log.Debug("what was committed to Kafka cannot be told", "topic", at.GetTopic(), "error", err)
		}
	}
	l.asked, l.group = time.Now(), found
	return found
}

const (
	// committedTimeout bounds what a lane waits for Kafka when it is taken: it works without.
	committedTimeout = 5 * time.Second
	// askAgain is how soon Kafka is asked again.
	askAgain = time.Minute
)
