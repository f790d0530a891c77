package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

// writers is how many segments are written at a time.
const writers = 4

// Save makes a checkpoint: m says what it covers (its Segments, NextSegment, Earlier, Session and Format are
// the lane's own business), chunks are the entries made since the last one. All outputs that the
// checkpoint covers must be acknowledged before.
//
// On an error other than ErrConflict call Save again with the same arguments, or with a later
// manifest and those chunks before newer ones: nothing has been taken from them.
//
// The entries since the last sealed segment of a part are its tail. It is written anew with each save, under a
// new key, so that frequent saves do not make many small segments.
func (l *Lane) Save(ctx context.Context, m *eventv1.Manifest, chunks []Chunk) error {
	p := l.plan(m, chunks)
	// A crash after this leaves segments that no manifest lists: orphans.
	if err := l.write(ctx, p.writes); err != nil {
		return err
	}
	kept, err := l.retire(ctx, m)
	if err != nil {
		return err
	}
	next := proto.CloneOf(m)
	next.Format, next.Session, next.Earlier = Format, l.session, entries(kept)
	next.Segments, next.NextSegment = p.segments, l.next
	// A crash after this leaves segments that the manifest no longer lists: orphans, too.
	if err := l.commit(ctx, next); err != nil {
		return err
	}
	l.tails, l.earlier, l.forget = p.tails, kept, false
	l.removeUnlisted(ctx)
	return nil
}

// plan is a manifest's segments, and those of them to be written first.
type plan struct {
	segments []*eventv1.Segment
	writes   []write
	tails    map[string]tail
}

type write struct {
	segment *eventv1.Segment // its key is given when it is written
	data    []byte
}

func (l *Lane) plan(m *eventv1.Manifest, chunks []Chunk) plan {
	p := plan{tails: make(map[string]tail, len(l.tails))}
	growing := make(map[string]bool, len(l.tails))
	byPart := make(map[string][]Chunk, len(l.tails))
	for part, t := range l.tails {
		growing[t.segment.Key] = true
		byPart[part] = nil
	}
	for _, s := range l.manifest.Segments {
		if s.MaxTimeMs >= horizonOf(m, s.GetPart()) && !growing[s.Key] {
			p.segments = append(p.segments, s)
		}
	}
	for _, c := range chunks {
		if c.Entries > 0 {
			byPart[c.Part] = append(byPart[c.Part], c)
		}
	}
	for _, part := range slices.Sorted(maps.Keys(byPart)) {
		l.planPart(&p, part, horizonOf(m, part), byPart[part])
	}
	return p
}

func horizonOf(m *eventv1.Manifest, part string) int64 {
	if horizon, ok := m.GetHorizonsMs()[part]; ok {
		return horizon
	}
	return m.GetHorizonMs()
}

// planPart adds the segments of one part that are new or may still grow.
func (l *Lane) planPart(p *plan, part string, horizonMS int64, chunks []Chunk) {
	t := l.tails[part]
	dirty := false
	seal := func() {
		switch {
		case t.segment == nil || t.segment.MaxTimeMs < horizonMS:
		case dirty:
			p.segments = append(p.segments, t.segment)
			p.writes = append(p.writes, write{t.segment, t.data})
		default:
			p.segments = append(p.segments, t.segment)
		}
	}
	for _, c := range chunks {
		if t.segment == nil || len(t.data)+len(c.Data) > l.cfg.SegmentBytes || l.old(t, c.HorizonMS) {
			seal()
			t = tail{segment: &eventv1.Segment{Part: part, MinTimeMs: c.MinMS, MaxTimeMs: c.MaxMS}, horizonMS: c.HorizonMS}
		} else if !dirty {
			// The tail of the last save belongs to that until this one is through.
			t.segment = proto.CloneOf(t.segment)
		}
		dirty = true
		// Beyond its length nobody else uses the tail's memory: a failed save is repeated from here.
		t.data = append(t.data, c.Data...)
		s := t.segment
		s.Entries += uint32(c.Entries)
		s.Bytes = uint32(len(t.data))
		s.MinTimeMs, s.MaxTimeMs = min(s.MinTimeMs, c.MinMS), max(s.MaxTimeMs, c.MaxMS)
	}
	seal()
	grows := t.segment != nil && t.segment.MaxTimeMs >= horizonMS && (dirty || !l.old(t, horizonMS))
	if grows {
		p.tails[part] = t
	}
}

func (l *Lane) old(t tail, horizonMS int64) bool {
	after := l.cfg.SealAfter[t.segment.GetPart()]
	return after > 0 && horizonMS-t.horizonMS >= after.Milliseconds()
}

// write stores segments under keys that were never used.
func (l *Lane) write(ctx context.Context, writes []write) error {
	var mu sync.Mutex // guards next and known
	key := func() string {
		mu.Lock()
		defer mu.Unlock()
		k := l.segmentPrefix() + strconv.FormatUint(l.next, 10)
		l.next++
		// Known before it is written: whether a failed write arrived we do not know.
		l.known[k] = true
		return k
	}
	// Keys in the order of the segments, for people who look.
	for _, w := range writes {
		w.segment.Key = key()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for _, w := range writes {
		g.Go(func() error {
			for {
				_, err := l.bucket.put(ctx, w.segment.Key, seal(w.segment.Key, w.data), 0)
				if !errors.Is(err, errRevision) {
					if err != nil {
						return fmt.Errorf("write %s: %w", w.segment.Key, err)
					}
					return nil
				}
				// The key is taken, by an owner before us that did not know yet. Its segment is not
				// ours to touch: if it is an orphan, it is collected when the lane is opened next.
				mu.Lock()
				delete(l.known, w.segment.Key)
				mu.Unlock()
				w.segment.Key = key()
			}
		})
	}
	return g.Wait()
}

// commit replaces the manifest. When the fate of an attempt is unknown, the bucket is asked: a
// manifest of our session is ours, and which one it is its content says.
func (l *Lane) commit(ctx context.Context, m *eventv1.Manifest) error {
	key := l.manifestKey()
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	for {
		revision, err := l.bucket.put(ctx, key, value, l.revision)
		if err == nil {
			l.revision, l.manifest = revision, m
			return nil
		}
		stored, at, readErr := l.bucket.get(ctx, key)
		switch {
		case errors.Is(readErr, errNoKey):
			return fmt.Errorf("save %s: %w: it is gone", key, ErrConflict)
		case readErr != nil:
			return fmt.Errorf("save %s: %w; read it back: %w", key, err, readErr)
		case at < l.revision:
			// A replica that lags behind. The write tells nothing yet: try again later.
			return fmt.Errorf("save %s: %w", key, err)
		case bytes.Equal(stored, value) && at > l.revision:
			l.revision, l.manifest = at, m
			return nil
		}
		var found eventv1.Manifest
		if err := proto.Unmarshal(stored, &found); err != nil || found.Session != l.session {
			return fmt.Errorf("save %s: %w", key, ErrConflict)
		}
		if at == l.revision {
			return fmt.Errorf("save %s: %w", key, err)
		}
		// An earlier attempt of ours arrived after all. Nobody else has the lane: write over it.
		l.revision = at
	}
}
