package ingestor

import (
	"context"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
	"sluice/libs/kafka"
	"sluice/libs/spec"
)

// words are what the lanes of the sink say in the ingest log of how far they have come. The offsets of Kafka's group carry it: when the whole store goes back to a
// copy, and nothing had been read since, nobody else remembers what was written. A lane's word goes with one partition.
type words struct {
	partitions int

	mu   sync.Mutex
	last map[int]kafka.Word // guarded by mu, by lane; never goes back
	wake map[int32]chan struct{}
	sub  *nats.Subscription
}

// newWords begins with what the group had committed for a topic of so many partitions, and tells those that are ours of each that is new.
func newWords(pipeline string, committed map[int32]kafka.Committed, partitions int, ours []int32) *words {
	w := &words{partitions: max(partitions, 1), last: map[int]kafka.Word{}, wake: map[int32]chan struct{}{}}
	for _, number := range ours {
		w.wake[number] = make(chan struct{}, 1)
	}
	for _, c := range committed {
		for _, word := range c.Words(pipeline) {
			w.keep(word)
		}
	}
	return w
}

// listen hears what is said from now on, and what was said last.
func (w *words) listen(ctx context.Context, s *session) error {
	log := fencedlog.Log{Pipeline: s.rec.GetSpec().GetId(), Stage: fencedlog.Ingest}
	var err error
	if w.sub, err = fencedlog.Hear(s.service.deps.NATS, log, spec.StageSink, w.hear); err != nil {
		return err
	}
	for _, lane := range spec.LiveLanes(s.rec) {
		body, err := fencedlog.Testimony(ctx, s.service.deps.JS, log, spec.StageSink, lane)
		if err != nil {
			return err
		}
		w.hear(lane, body)
	}
	return nil
}

// end stops listening. Nil has nothing to end.
func (w *words) end() {
	if w != nil && w.sub != nil {
		_ = w.sub.Unsubscribe() // or the connection is closed, which ends it as well
	}
}

func (w *words) hear(lane int, body []byte) {
	var block eventv1.Receipt
	if proto.Unmarshal(body, &block) != nil || block.GetLastSequence() == 0 {
		return
	}
	if !w.keep(kafka.Word{Lane: lane, Epoch: block.GetEpoch(), Sequence: block.GetLastSequence(), TimeNs: block.GetLastTimeNs()}) {
		return
	}
	select {
	case w.wake[w.partition(lane)] <- struct{}{}: // never, if it is none of ours
	default:
	}
}

// keep tells whether the word is news.
func (w *words) keep(word kafka.Word) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	had := w.last[word.Lane]
	if word.Epoch < had.Epoch || word.Epoch == had.Epoch && word.Sequence <= had.Sequence {
		return false
	}
	w.last[word.Lane] = word
	return true
}

func (w *words) partition(lane int) int32 { return int32(lane % w.partitions) }

// of returns the words that go with a partition.
func (w *words) of(number int32) (out []kafka.Word) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for lane, word := range w.last {
		if w.partition(lane) == number {
			out = append(out, word)
		}
	}
	// The latest lanes first: there is room for some only.
	slices.SortFunc(out, func(a, b kafka.Word) int { return b.Lane - a.Lane })
	return out
}
