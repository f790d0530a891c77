// Package checkpoint keeps the windowed state of a stage's lane in a JetStream key-value bucket: one
// manifest, and immutable segments that it lists.
//
// It guarantees that what Open and Restore give is one state that was saved as a whole, whatever
// was killed when: segments are written under keys never used before, then the manifest replaces
// the one before it by compare-and-set, and only then is deleted what no manifest lists any more. Of
// several owners of a lane only the one that opened it last can save; the others get ErrConflict. A
// segment that is missing or damaged is an error that names it, never a smaller state.
//
// With Config.Keep a checkpoint that a newer one has replaced stays, with its segments, until Release: a way back, for when what was put out
// after it is lost. A few are kept, the oldest always.
//
// It does not guarantee that a save which failed left nothing behind: what a crash leaves over is
// collected when the lane is opened next. And it does not look at the entries: a segment is dropped
// when the horizon that the caller gives has passed its largest time. Time never comes from a clock
// (a TTL, say): the log may lag behind the clock by days, and its replay still needs the entries.
package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

// Format is the version of the manifest's and the segments' layout that this package writes.
const Format = 1

// DefaultSegmentBytes bounds a segment: half of the largest message that a NATS server takes by
// default.
const DefaultSegmentBytes = 512 << 10

// claimPause is the time between two attempts to claim a lane that others claim too.
const claimPause = 10 * time.Millisecond

var (
	// ErrConflict says that another has opened the lane since: this owner's state is void.
	ErrConflict = errors.New("another instance owns the lane's checkpoint now")
	// ErrFormat says that the checkpoint was written by a newer version.
	ErrFormat = errors.New("unknown checkpoint format")
	// ErrDamaged says that the checkpoint is not what was written.
	ErrDamaged = errors.New("damaged checkpoint")
)

// Bucket is the name of the key-value bucket that holds the state of a pipeline's stages.
func Bucket(pipeline string) string { return "sluice_" + pipeline + "_state" }

// Config names a lane and says how its state is cut.
type Config struct {
	JS       jetstream.JetStream
	Pipeline string // id
	Stage    string // dedup, join
	Lane     int
	// SegmentBytes bounds a segment; 0 means DefaultSegmentBytes.
	SegmentBytes int
	// SealAfter, by part of the state, is the progress of the horizon after which a segment takes no more entries, so that
	// it can be dropped soon after the first of them has expired: a sixteenth of the window, say. It
	// bounds the number of small segments. 0 means that only size seals.
	SealAfter map[string]time.Duration
	// Keep keeps the checkpoints that a newer one has replaced until Release.
	Keep bool
}

// Chunk is a run of state entries as the stage encodes them.
type Chunk struct {
	// Part of the state that the entries belong to, where a stage has several: they share no segment, and each has its horizon
	// (Manifest.horizons_ms).
	Part         string
	Data         []byte
	Entries      int
	MinMS, MaxMS int64 // smallest and largest time of an entry, milliseconds since 1970
	HorizonMS    int64 // horizon of the part when the chunk was begun
}

// Lane is the checkpoint of one lane. It is not safe for concurrent use.
type Lane struct {
	cfg     Config
	bucket  bucket
	prefix  string
	session string

	revision uint64            // of the manifest that we know to be ours
	manifest *eventv1.Manifest // the last one that we wrote, or that we went back to; owned by the lane
	earlier  []earlier         // oldest first; their segments are kept, too
	forget   bool              // the next save keeps none
	tails    map[string]tail   // by part; parts without one are missing
	next     uint64            // number of the next segment; never goes back, also when a save fails
	// known are the keys of segments and earlier manifests that may be in the bucket, listed by the manifest or not.
	known map[string]bool
}

// tail is the last segment of a part while it may still grow.
type tail struct {
	segment   *eventv1.Segment // as the manifest lists it
	data      []byte
	horizonMS int64 // when it was begun
}

// Open takes a lane over and returns its manifest, which the caller must not change. From here on,
// whoever had it open before can no longer save. The manifest of a new lane is empty.
func Open(ctx context.Context, cfg Config) (*Lane, *eventv1.Manifest, error) {
	b, err := openBucket(ctx, cfg.JS, Bucket(cfg.Pipeline))
	if err != nil {
		return nil, nil, err
	}
	return open(ctx, cfg, b)
}

func open(ctx context.Context, cfg Config, b bucket) (*Lane, *eventv1.Manifest, error) {
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = DefaultSegmentBytes
	}
	l := &Lane{
		cfg: cfg, bucket: b, session: nuid.Next(), known: map[string]bool{}, tails: map[string]tail{},
		prefix: cfg.Stage + "." + strconv.Itoa(cfg.Lane) + ".",
	}
	if err := l.claim(ctx); err != nil {
		return nil, nil, err
	}
	if err := l.loadEarlier(ctx); err != nil {
		return nil, nil, err
	}
	if err := l.collect(ctx); err != nil {
		return nil, nil, err
	}
	return l, l.manifest, nil
}

func (l *Lane) manifestKey() string { return l.prefix + "manifest" }

func (l *Lane) segmentPrefix() string { return l.prefix + "segment." }

// claim rewrites the manifest under our session. A crash after this leaves a manifest of the same
// content, which the next owner claims in turn.
func (l *Lane) claim(ctx context.Context) error {
	key := l.manifestKey()
	for {
		m, revision, err := l.load(ctx)
		if err != nil {
			return err
		}
		m.Session = l.session
		value, err := proto.Marshal(m)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		revision, err = l.bucket.put(ctx, key, value, revision)
		if errors.Is(err, errRevision) {
			// Saved or claimed by another in between, or we read from a replica that lags behind.
			select {
			case <-ctx.Done():
				return fmt.Errorf("claim %s: %w", key, ctx.Err())
			case <-time.After(claimPause):
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("claim %s: %w", key, err)
		}
		l.revision, l.manifest, l.next = revision, m, max(l.next, m.NextSegment)
		return nil
	}
}

func (l *Lane) load(ctx context.Context) (*eventv1.Manifest, uint64, error) {
	key := l.manifestKey()
	value, revision, err := l.bucket.get(ctx, key)
	if errors.Is(err, errNoKey) {
		return &eventv1.Manifest{Format: Format}, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", key, err)
	}
	m := &eventv1.Manifest{}
	if err := proto.Unmarshal(value, m); err != nil {
		return nil, 0, fmt.Errorf("read %s: %w: %w", key, ErrDamaged, err)
	}
	if m.Format == 0 || m.Format > Format {
		return nil, 0, fmt.Errorf("read %s: %w %d; this version reads up to %d", key, ErrFormat, m.Format, Format)
	}
	return m, revision, nil
}

// collect removes the segments that no manifest lists: what a crash between two steps of a save has
// left. A segment that another owner is about to list must not be among them, so the manifest is
// claimed once more after the segments were listed: if that goes through, nobody has claimed the
// lane in between, and all that was listed is of owners who can no longer save.
func (l *Lane) collect(ctx context.Context) error {
	listed := l.listed()
	orphans := 0
	for _, prefix := range []string{l.segmentPrefix(), l.earlierPrefix()} {
		keys, err := l.bucket.list(ctx, prefix)
		if err != nil {
			return fmt.Errorf("list the segments of %s: %w", l.manifestKey(), err)
		}
		for _, key := range keys {
			l.known[key] = true
			if !listed[key] {
				orphans++
				if n, err := strconv.ParseUint(key[len(prefix):], 10, 64); err == nil {
					l.next = max(l.next, n+1)
				}
			}
		}
	}
	if orphans == 0 {
		return nil
	}
	if err := l.commit(ctx, l.manifest); err != nil {
		return err
	}
	l.removeUnlisted(ctx)
	return nil
}

func (l *Lane) listed() map[string]bool {
	keys := make(map[string]bool, len(l.manifest.Segments))
	for _, s := range l.manifest.Segments {
		keys[s.Key] = true
	}
	for _, e := range l.earlier {
		keys[e.entry.GetKey()] = true
		for _, s := range e.manifest.GetSegments() {
			keys[s.Key] = true
		}
	}
	return keys
}

// removeUnlisted deletes the segments that the manifest does not list. What fails is tried again
// after the next save, or by the next owner: it takes room, and harms nothing.
func (l *Lane) removeUnlisted(ctx context.Context) {
	listed := l.listed()
	for key := range l.known {
		if listed[key] {
			continue
		}
		if err := l.bucket.remove(ctx, key); err != nil {
			return
		}
		delete(l.known, key)
	}
}

// Covered is what a checkpoint covers last, and the lowest sequence that any checkpoint of its lane that is kept covers.
type Covered struct {
	Sequence uint64
	Time     time.Time
	Lowest   uint64
}

// AllCovered returns what the checkpoints of lanes of a stage cover. What lies before the lowest is needed by none of them; it is 0
// as long as a lane has no checkpoint. A lane that is closed needs nothing but what its earlier checkpoints would replay; without them it is left out.
func AllCovered(ctx context.Context, js jetstream.JetStream, pipeline, stage string, lanes []int) ([]Covered, error) {
	b, err := openBucket(ctx, js, Bucket(pipeline))
	if err != nil {
		return nil, err
	}
	all := make([]Covered, 0, len(lanes))
	for _, lane := range lanes {
		l := &Lane{bucket: b, prefix: stage + "." + strconv.Itoa(lane) + "."}
		m, _, err := l.load(ctx)
		if err != nil {
			return nil, err
		}
		if m.GetClosed() && len(m.GetEarlier()) == 0 {
			continue
		}
		all = append(all, Covered{m.GetCoveredSequence(), time.Unix(0, m.GetCoveredTimeNs()), lowest(m)})
	}
	return all, nil
}

// lowest is what the oldest checkpoint covers that is kept with a manifest, or that itself.
func lowest(m *eventv1.Manifest) uint64 {
	lowest := m.GetCoveredSequence()
	for _, e := range m.GetEarlier() {
		lowest = min(lowest, e.GetCoveredSequence())
	}
	return lowest
}

// Lowest returns the lowest sequence that the checkpoints of all lanes of a stage cover, those that are kept as well: see AllCovered.
func Lowest(ctx context.Context, js jetstream.JetStream, pipeline, stage string, lanes []int) (uint64, error) {
	all, err := AllCovered(ctx, js, pipeline, stage, lanes)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	lowest := all[0].Lowest
	for _, c := range all[1:] {
		lowest = min(lowest, c.Lowest)
	}
	return lowest, nil
}
