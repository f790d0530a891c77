package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

// maxEarlier bounds how many earlier checkpoints are kept. Beyond it the one goes whose neighbours are closest, so that those that stay
// are spread out: to go back further than needed costs a longer replay, nothing else.
const maxEarlier = 8

// earlier is a checkpoint that another has replaced and that is kept, with all its segments.
type earlier struct {
	entry    *eventv1.Earlier
	manifest *eventv1.Manifest
}

// Earlier returns the checkpoints before the current one that are kept, oldest first. They must not be changed.
func (l *Lane) Earlier() []*eventv1.Manifest {
	out := make([]*eventv1.Manifest, len(l.earlier))
	for i, e := range l.earlier {
		out[i] = e.manifest
	}
	return out
}

// GoBack makes earlier checkpoint i, as Earlier numbers them, the one that Restore gives and Save goes on from. What is stored does not change
// before the next Save. It is called before Restore.
func (l *Lane) GoBack(i int) *eventv1.Manifest {
	m := proto.CloneOf(l.earlier[i].manifest)
	l.earlier = l.earlier[:i]
	l.manifest = m
	return m
}

// Release forgets the earlier checkpoints that are not needed any more: all before the newest of which done says that nobody will ever need
// anything from before it. What it forgets is removed, and no longer holds Lowest back, with the next Save. It tells
// whether there is anything to remove.
func (l *Lane) Release(done func(*eventv1.Manifest) bool) bool {
	if len(l.earlier) == 0 {
		return false
	}
	keep := 0
	if done(l.manifest) {
		keep = len(l.earlier)
	}
	for i := len(l.earlier) - 1; keep == 0 && i > 0; i-- {
		if done(l.earlier[i].manifest) {
			keep = i
		}
	}
	l.earlier = slices.Clone(l.earlier[keep:])
	return keep > 0
}

// Forget lets go of all earlier checkpoints, and of the current one as soon as the next is saved.
func (l *Lane) Forget() { l.earlier, l.forget = nil, true }

// Saved returns a copy of the checkpoint that is stored, for one to be saved again that is no other: after Release.
func (l *Lane) Saved() *eventv1.Manifest { return proto.CloneOf(l.manifest) }

// loadEarlier reads the earlier checkpoints that the manifest lists. One that is missing or damaged is left out: it is a way back, not
// the state.
func (l *Lane) loadEarlier(ctx context.Context) error {
	l.earlier = nil
	for _, entry := range l.manifest.GetEarlier() {
		l.known[entry.GetKey()] = true
		m, err := l.readEarlier(ctx, entry)
		if err != nil {
			return err
		}
		if m != nil {
			l.earlier = append(l.earlier, earlier{entry, m})
		}
	}
	return nil
}

// readEarlier reads an earlier checkpoint. Nil if it is missing or damaged.
func (l *Lane) readEarlier(ctx context.Context, entry *eventv1.Earlier) (*eventv1.Manifest, error) {
	value, err := l.look(ctx, entry.GetKey())
	if errors.Is(err, errNoKey) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", entry.GetKey(), err)
	}
	n := len(value) - checksumLen
	if n < 0 || binary.LittleEndian.Uint64(value[n:]) != checksum(entry.GetKey(), value[:n]) {
		return nil, nil
	}
	m := &eventv1.Manifest{}
	if proto.Unmarshal(value[:n], m) != nil || m.GetFormat() == 0 || m.GetFormat() > Format {
		return nil, nil
	}
	return m, nil
}

// retire returns the earlier checkpoints that the one to be saved next keeps: those there are, and the current one, which is written
// under a key of its own. A crash after this leaves that as an orphan.
func (l *Lane) retire(ctx context.Context, next *eventv1.Manifest) ([]earlier, error) {
	if !l.cfg.Keep || l.forget {
		return nil, nil
	}
	kept := slices.Clone(l.earlier)
	current := l.manifest
	same := func(m *eventv1.Manifest) bool {
		return m.GetCoveredSequence() == current.GetCoveredSequence() && m.GetEpoch() == current.GetEpoch()
	}
	if same(next) || len(kept) > 0 && same(kept[len(kept)-1].manifest) {
		return kept, nil
	}
	m := proto.CloneOf(current)
	m.Earlier, m.Session = nil, ""
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the checkpoint before: %w", err)
	}
	w := &eventv1.Segment{}
	for {
		w.Key = l.earlierPrefix() + strconv.FormatUint(l.next, 10)
		l.next++
		l.known[w.Key] = true
		_, err := l.bucket.put(ctx, w.Key, seal(w.Key, data), 0)
		if err == nil {
			break
		}
		if !errors.Is(err, errRevision) {
			return nil, fmt.Errorf("write %s: %w", w.Key, err)
		}
		delete(l.known, w.Key) // another's, or ours from an attempt whose answer was lost: collected when the lane is opened next
	}
	entry := &eventv1.Earlier{
		Key: w.Key, Bytes: uint32(len(data)), CoveredSequence: m.GetCoveredSequence(), Output: m.GetOutput(),
	}
	return thin(append(kept, earlier{entry, m})), nil
}

// thin leaves out one of too many.
func thin(kept []earlier) []earlier {
	if len(kept) <= maxEarlier {
		return kept
	}
	covered := func(i int) uint64 { return kept[i].entry.GetCoveredSequence() }
	best := 1
	for i := 2; i < len(kept)-1; i++ {
		if covered(i+1)-covered(i-1) < covered(best+1)-covered(best-1) {
			best = i
		}
	}
	return slices.Delete(kept, best, best+1)
}

func entries(kept []earlier) []*eventv1.Earlier {
	out := make([]*eventv1.Earlier, len(kept))
	for i, e := range kept {
		out[i] = e.entry
	}
	return out
}

func (l *Lane) earlierPrefix() string { return l.prefix + "earlier." }
