package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	eventv1 "sluice/gen/sluice/event/v1"
)

const (
	// readers is how many segments are fetched at a time; as many wait to be taken. Together with
	// SegmentBytes it bounds the memory of a restore.
	readers     = 8
	checksumLen = 8
	// A replica may lag behind what the leader has acknowledged: a segment is missing only when it
	// is still missing after so many looks.
	looks     = 6
	firstLook = 25 * time.Millisecond
)

// seal appends a checksum over key and data, so that neither damage nor a mix-up goes unnoticed.
func seal(key string, data []byte) []byte {
	value := append(make([]byte, 0, len(data)+checksumLen), data...)
	return binary.LittleEndian.AppendUint64(value, checksum(key, data))
}

func checksum(key string, data []byte) uint64 {
	return xxh3.HashSeed(data, xxh3.HashString(key))
}

// Restore hands the segments of the manifest to the caller, one at a time and oldest first; fetching
// goes on meanwhile. It is called once, before the first Save.
func (l *Lane) Restore(ctx context.Context, take func(s *eventv1.Segment, data []byte) error) error {
	last := map[string][]byte{}
	segments, newest := l.manifest.Segments, map[string]*eventv1.Segment{}
	err := inOrder(ctx, len(segments),
		func(ctx context.Context, i int) ([]byte, error) { return l.fetch(ctx, segments[i]) },
		func(i int, data []byte) error {
			s := segments[i]
			if err := take(s, data); err != nil {
				return fmt.Errorf("restore %s: %w", s.Key, err)
			}
			last[s.GetPart()], newest[s.GetPart()] = data, s
			return nil
		})
	if err != nil {
		return err
	}
	for part, s := range newest {
		l.resume(s, last[part])
	}
	return nil
}

// inOrder fetches n things, some at a time, and hands them on one at a time and in order.
func inOrder(ctx context.Context, n int, fetch func(ctx context.Context, i int) ([]byte, error), take func(i int, data []byte) error) error {
	g, ctx := errgroup.WithContext(ctx)
	type fetched struct {
		data []byte
		err  error
	}
	// The queue holds places in order; each is filled by its own goroutine.
	places := make(chan chan fetched, readers)
	g.Go(func() error {
		defer close(places)
		for i := range n {
			place := make(chan fetched, 1)
			select {
			case places <- place:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error {
				data, err := fetch(ctx, i)
				place <- fetched{data, err}
				return nil
			})
		}
		return nil
	})
	g.Go(func() error {
		i := 0
		for place := range places {
			f := <-place
			if f.err != nil {
				return f.err
			}
			if err := take(i, f.data); err != nil {
				return err
			}
			i++
		}
		return nil
	})
	return g.Wait()
}

// resume lets the last segment of a part grow on. When it was begun is not known any more: the age of its
// oldest entry stands for it, reckoned by what the horizon has gone through since.
func (l *Lane) resume(s *eventv1.Segment, data []byte) {
	horizon := min(s.MinTimeMs-l.manifest.WindowMs, horizonOf(l.manifest, s.GetPart()))
	l.tails[s.GetPart()] = tail{segment: s, data: data, horizonMS: horizon}
}

func (l *Lane) fetch(ctx context.Context, s *eventv1.Segment) ([]byte, error) {
	value, err := l.look(ctx, s.Key)
	if errors.Is(err, errNoKey) {
		return nil, fmt.Errorf("%w: %s of lane %d of %s is missing", ErrDamaged, s.Key, l.cfg.Lane, Bucket(l.cfg.Pipeline))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.Key, err)
	}
	n := len(value) - checksumLen
	if n < 0 || n != int(s.Bytes) {
		return nil, fmt.Errorf("%w: %s of %s has %d bytes, the manifest says %d", ErrDamaged, s.Key, Bucket(l.cfg.Pipeline), n, s.Bytes)
	}
	if binary.LittleEndian.Uint64(value[n:]) != checksum(s.Key, value[:n]) {
		return nil, fmt.Errorf("%w: %s of %s has a wrong checksum", ErrDamaged, s.Key, Bucket(l.cfg.Pipeline))
	}
	return value[:n:n], nil
}

func (l *Lane) look(ctx context.Context, key string) ([]byte, error) {
	for n, pause := 1, firstLook; ; n, pause = n+1, 2*pause {
		value, _, err := l.bucket.get(ctx, key)
		if !errors.Is(err, errNoKey) || n == looks {
			return value, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}
