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

// Had is what a lane of a stage has of its upstream log.
type Had struct {
	Sequence uint64 // 0: nothing yet
	Taken    map[string]*eventv1.Taken
}

// Reached is how far a lane of a stage has come in its upstream log.
type Reached struct {
	Had
	Time time.Time
	// Least is the sequence of the oldest checkpoint that the lane may go back to: see Least. Without any it is Sequence.
	Least uint64
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
	key := PositionKey(lane)
	if stage != Sink {
		key = (&Lane{prefix: stage + "." + strconv.Itoa(lane) + "."}).manifestKey()
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
		return Reached{
			Had: Had{p.GetCoveredSequence(), p.GetTaken()}, Time: time.Unix(0, p.GetCoveredTimeNs()), Least: p.GetCoveredSequence(),
			Positions: p.GetPositions(), Made: p.GetMadeNs(), Joined: p.GetJoined(), Pending: p.GetPending(),
		}, nil
	}
	m := &eventv1.Manifest{}
	if err := proto.Unmarshal(value, m); err != nil {
		return Reached{}, fmt.Errorf("read %s: %w: %w", key, ErrDamaged, err)
	}
	return Reached{
		Had: Had{m.GetCoveredSequence(), m.GetTaken()}, Time: time.Unix(0, m.GetCoveredTimeNs()), Least: lowest(m), Epoch: m.GetEpoch(), Closed: m.GetClosed(),
	}, nil
}

// Least is what a lane of a stage still has should it go back to the oldest checkpoint that it keeps.
func Least(ctx context.Context, js jetstream.JetStream, pipeline, stage string, lane int) (Had, error) {
	b, err := openBucket(ctx, js, Bucket(pipeline))
	if err != nil {
		return Had{}, err
	}
	l := &Lane{bucket: b, prefix: stage + "." + strconv.Itoa(lane) + "."}
	m, _, err := l.load(ctx)
	if err != nil {
		return Had{}, err
	}
	for _, entry := range m.GetEarlier() {
		kept, err := l.readEarlier(ctx, entry)
		if err != nil {
			return Had{}, err
		}
		if kept != nil {
			return Had{kept.GetCoveredSequence(), kept.GetTaken()}, nil
		}
	}
	return Had{m.GetCoveredSequence(), m.GetTaken()}, nil
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
