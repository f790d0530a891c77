package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

// Sink is the stage whose lanes keep a SinkPosition instead of a manifest.
const Sink = "sink"

// PositionKey is the key of the position of a lane of the sink.
func PositionKey(lane int) string { return Sink + "." + strconv.Itoa(lane) + ".position" }

// Reached is how far a lane of a stage has come in its upstream log.
type Reached struct {
	Sequence uint64 // 0: nowhere yet
	Time     time.Time
	Taken    map[string]*eventv1.Taken
	// Least is what of that the lane still has should it go back to the oldest checkpoint that it keeps.
	Least struct {
		Sequence uint64
		Taken    map[string]*eventv1.Taken
	}
	// Epoch and Closed of a checkpoint; not of the sink.
	Epoch  uint32
	Closed bool
	// Of the sink behind a join, as in SinkPosition: the last position that it has had of each writer of that log, when what that was made of was stored, and
	// what the join had taken by then. Pending is the block that it may have as well.
	Positions map[string]string
	Made      map[string]int64
	Joined    map[string]*eventv1.Taken
	Pending   *eventv1.PendingBlock
}

// ReachedBy tells how far a lane of any stage has come, as its last checkpoint says.
func ReachedBy(ctx context.Context, js jetstream.JetStream, pipeline, stage string, lane int) (Reached, error) {
	b, err := openBucket(ctx, js, Bucket(pipeline))
	if err != nil {
		return Reached{}, err
	}
	of := &Lane{bucket: b, prefix: stage + "." + strconv.Itoa(lane) + "."}
	key := PositionKey(lane)
	if stage != Sink {
		key = of.manifestKey()
	}
	value, _, err := b.get(ctx, key)
	if errors.Is(err, errNoKey) {
		return Reached{}, nil
	}
	if err != nil {
		return Reached{}, fmt.Errorf("read %s: %w", key, err)
	}
	if stage == Sink {
		p := &eventv1.SinkPosition{}
		if err := proto.Unmarshal(value, p); err != nil {
			return Reached{}, fmt.Errorf("read %s: %w: %w", key, ErrDamaged, err)
		}
		r := Reached{
			Sequence: p.GetCoveredSequence(), Time: time.Unix(0, p.GetCoveredTimeNs()), Taken: p.GetTaken(),
			Positions: p.GetPositions(), Made: p.GetMadeNs(), Joined: p.GetJoined(), Pending: p.GetPending(),
		}
		r.Least.Sequence, r.Least.Taken = r.Sequence, r.Taken
		return r, nil
	}
	m := &eventv1.Manifest{}
	if err := proto.Unmarshal(value, m); err != nil {
		return Reached{}, fmt.Errorf("read %s: %w: %w", key, ErrDamaged, err)
	}
	r := Reached{
		Sequence: m.GetCoveredSequence(), Time: time.Unix(0, m.GetCoveredTimeNs()), Taken: m.GetTaken(), Epoch: m.GetEpoch(), Closed: m.GetClosed(),
	}
	for _, entry := range m.GetEarlier() {
		kept, err := of.readEarlier(ctx, entry)
		if err != nil {
			return Reached{}, err
		}
		if kept != nil {
			m = kept
			break
		}
	}
	r.Least.Sequence, r.Least.Taken = m.GetCoveredSequence(), m.GetTaken()
	return r, nil
}

// Needed returns, by lane of a stage, the sequence in its own log behind which the lane may have to read again what it has put out, to heal from
// a loss of its input: that of its last checkpoint's output, 0 without one. Lanes that are closed need nothing.
func Needed(ctx context.Context, js jetstream.JetStream, pipeline, stage string, lanes []int) (map[int]uint64, error) {
	b, err := openBucket(ctx, js, Bucket(pipeline))
	if err != nil {
		return nil, err
	}
	out := make(map[int]uint64, len(lanes))
	for _, lane := range lanes {
		l := &Lane{bucket: b, prefix: stage + "." + strconv.Itoa(lane) + "."}
		m, _, err := l.load(ctx)
		if err != nil {
			return nil, err
		}
		if m.GetClosed() {
			continue
		}
		if out[lane] = m.GetOutput().GetSequence(); m.GetReplay() != nil {
			out[lane] = m.GetReplay().GetFromSequence()
		}
	}
	return out, nil
}
