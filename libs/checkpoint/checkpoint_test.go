package checkpoint

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/playground/nats/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newBucket makes the bucket as the control service does, and returns it with JetStream.
func newBucket(t *testing.T) (jetstream.JetStream, *kv) {
	t.Helper()
	nc, err := nats.Connect(natstest.Start(t))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: Bucket("p")})
	require.NoError(t, err)
	b, err := openBucket(t.Context(), js, Bucket("p"))
	require.NoError(t, err)
	return js, b.(*kv)
}

func config(js jetstream.JetStream) Config {
	return Config{JS: js, Pipeline: "p", Stage: "dedup", Lane: 3, SegmentBytes: 64, SealAfter: map[string]time.Duration{"": 100 * time.Millisecond}}
}

// chunk of entries of 8 bytes, "tttttttt": the time, in decimal.
func chunk(horizon int64, times ...int64) Chunk {
	c := Chunk{Entries: len(times), MinMS: times[0], MaxMS: times[0], HorizonMS: horizon}
	for _, t := range times {
		c.Data = fmt.Appendf(c.Data, "%08d", t)
		c.MinMS, c.MaxMS = min(c.MinMS, t), max(c.MaxMS, t)
	}
	return c
}

func manifest(covered uint64, horizon int64) *eventv1.Manifest {
	return &eventv1.Manifest{CoveredSequence: covered, HorizonMs: horizon, Tally: &eventv1.Tally{Records: covered}}
}

// restored returns the visible entries in their order, and checks the manifest against the segments.
func restored(t require.TestingT, l *Lane) []string {
	var entries []string
	err := l.Restore(context.Background(), func(s *eventv1.Segment, data []byte) error {
		require.Len(t, data, int(s.Entries)*8)
		for ; len(data) > 0; data = data[8:] {
			var at int64
			_, err := fmt.Sscanf(string(data[:8]), "%d", &at)
			require.NoError(t, err)
			require.True(t, s.MinTimeMs <= at && at <= s.MaxTimeMs)
			if at >= l.manifest.HorizonMs {
				entries = append(entries, string(data[:8]))
			}
		}
		return nil
	})
	require.NoError(t, err)
	return entries
}

// model is what must come back: the chunks' entries that are not older than the horizon.
func visible(horizon int64, chunks []Chunk) (entries []string) {
	for _, c := range chunks {
		for d := string(c.Data); len(d) > 0; d = d[8:] {
			if d[:8] >= fmt.Sprintf("%08d", horizon) {
				entries = append(entries, d[:8])
			}
		}
	}
	return entries
}

func segmentKeys(t require.TestingT, b bucket) []string {
	keys, err := b.list(context.Background(), "dedup.3.segment.")
	require.NoError(t, err)
	return keys
}

func TestSaveAndRestore(t *testing.T) {
	js, b := newBucket(t)
	ctx := t.Context()
	lane, m, err := Open(ctx, config(js))
	require.NoError(t, err)
	require.Zero(t, m.CoveredSequence)
	require.Empty(t, restored(t, lane))

	var all []Chunk
	for i := range int64(100) {
		now := 10 * i
		c := chunk(now-400, now, now+1, now+2)
		all = append(all, c)
		require.NoError(t, lane.Save(ctx, manifest(uint64(i+1), now-400), []Chunk{c}))
		require.ElementsMatch(t, keysOf(lane.manifest), segmentKeys(t, b), "exactly what the manifest lists")
		if i%30 == 29 { // a new owner
			lane, m, err = Open(ctx, config(js))
			require.NoError(t, err)
			require.EqualValues(t, i+1, m.CoveredSequence)
			require.EqualValues(t, i+1, m.Tally.Records)
			require.Equal(t, visible(now-400, all), restored(t, lane))
		}
	}
	// 42 visible chunks of 24 bytes, two to a segment of 64 bytes, and what has not quite expired.
	require.LessOrEqual(t, len(segmentKeys(t, b)), 42/2+3)

	info, err := b.stream.Info(ctx)
	require.NoError(t, err)
	require.EqualValues(t, len(segmentKeys(t, b))+1, info.State.Msgs, "no markers are left behind")
}

func keysOf(m *eventv1.Manifest) (keys []string) {
	for _, s := range m.Segments {
		keys = append(keys, s.Key)
	}
	return keys
}

func TestProgressSealsTheTail(t *testing.T) {
	js, _ := newBucket(t)
	cfg := config(js)
	cfg.SegmentBytes = DefaultSegmentBytes
	lane, _, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	for i := range int64(50) { // ten checkpoints in the time of SealAfter
		require.NoError(t, lane.Save(t.Context(), manifest(uint64(i+1), 10*i), []Chunk{chunk(10*i, 10*i+500)}))
	}
	require.Len(t, lane.manifest.Segments, 5)
	// Time goes on without entries: the tail is sealed, and then all of them expire.
	require.NoError(t, lane.Save(t.Context(), manifest(51, 700), nil))
	require.Empty(t, lane.tails)
	require.Len(t, lane.manifest.Segments, 3, "the first two ended at 590 and 690")
	require.NoError(t, lane.Save(t.Context(), manifest(52, 991), nil))
	require.Empty(t, lane.manifest.Segments)
}

func TestOnlyTheLastOwnerSaves(t *testing.T) {
	js, _ := newBucket(t)
	ctx := t.Context()
	first, _, err := Open(ctx, config(js))
	require.NoError(t, err)
	require.NoError(t, first.Save(ctx, manifest(1, 0), []Chunk{chunk(0, 1, 2)}))
	second, m, err := Open(ctx, config(js))
	require.NoError(t, err)
	require.EqualValues(t, 1, m.CoveredSequence)

	require.ErrorIs(t, first.Save(ctx, manifest(2, 0), []Chunk{chunk(0, 3)}), ErrConflict)
	require.ErrorIs(t, first.Save(ctx, manifest(2, 0), []Chunk{chunk(0, 3)}), ErrConflict)
	require.NoError(t, second.Save(ctx, manifest(3, 0), []Chunk{chunk(0, 4)}))
	third, m, err := Open(ctx, config(js))
	require.NoError(t, err)
	require.EqualValues(t, 3, m.CoveredSequence)
	require.ElementsMatch(t, []string{"00000001", "00000002", "00000004"}, restored(t, third))
}

// TestStaleOwnerCollectsNothing: an instance that opens the lane and is overtaken by another between
// any two steps must not collect the other's new segments.
func TestStaleOwnerCollectsNothing(t *testing.T) {
	for step := range 8 {
		_, b := newBucket(t)
		ctx := t.Context()
		cfg := config(nil)
		old, _, err := open(ctx, cfg, b)
		require.NoError(t, err)
		require.NoError(t, old.write(ctx, []write{{&eventv1.Segment{}, []byte("orphan")}})) // so that there is something to collect
		overtaken := &interposed{bucket: b, at: step, do: func() {
			other, _, err := open(ctx, cfg, b)
			require.NoError(t, err)
			require.NoError(t, other.Save(ctx, manifest(7, 0), []Chunk{chunk(0, 1, 2, 3)}))
		}}
		_, _, err = open(ctx, cfg, overtaken)
		if err != nil {
			require.ErrorIs(t, err, ErrConflict)
		}
		last, m, err := open(ctx, cfg, b)
		require.NoError(t, err)
		if overtaken.done {
			require.EqualValues(t, 7, m.CoveredSequence)
			require.Len(t, restored(t, last), 3)
		}
		require.ElementsMatch(t, keysOf(last.manifest), segmentKeys(t, b))
	}
}

// interposed runs a function before one operation.
type interposed struct {
	bucket
	at, calls int
	do        func()
	done      bool
}

func (i *interposed) step() {
	if i.calls == i.at {
		i.do()
		i.done = true
	}
	i.calls++
}

func (i *interposed) get(ctx context.Context, key string) ([]byte, uint64, error) {
	i.step()
	return i.bucket.get(ctx, key)
}

func (i *interposed) put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	i.step()
	return i.bucket.put(ctx, key, value, revision)
}

func (i *interposed) remove(ctx context.Context, key string) error {
	i.step()
	return i.bucket.remove(ctx, key)
}

func (i *interposed) list(ctx context.Context, prefix string) ([]string, error) {
	i.step()
	return i.bucket.list(ctx, prefix)
}

func TestDamageIsNamed(t *testing.T) {
	for name, damage := range map[string]func(b *kv, key, other string) error{
		"missing": func(b *kv, key, _ string) error { return b.remove(context.Background(), key) },
		"checksum": func(b *kv, key, _ string) error {
			v, rev, err := b.get(context.Background(), key)
			if err != nil {
				return err
			}
			v[3] ^= 1
			_, err = b.put(context.Background(), key, v, rev)
			return err
		},
		"bytes": func(b *kv, key, _ string) error {
			v, rev, err := b.get(context.Background(), key)
			if err != nil {
				return err
			}
			_, err = b.put(context.Background(), key, v[1:], rev)
			return err
		},
		"wrong checksum": func(b *kv, key, other string) error { // another segment's value
			v, _, err := b.get(context.Background(), other)
			if err != nil {
				return err
			}
			_, rev, err := b.get(context.Background(), key)
			if err != nil {
				return err
			}
			_, err = b.put(context.Background(), key, v, rev)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			js, b := newBucket(t)
			lane, _, err := Open(t.Context(), config(js))
			require.NoError(t, err)
			require.NoError(t, lane.Save(t.Context(), manifest(1, 0), []Chunk{
				chunk(0, 1, 2, 3, 4, 5, 6, 7, 8), chunk(0, 11, 12, 13, 14, 15, 16, 17, 18), chunk(0, 21),
			}))
			keys := keysOf(lane.manifest)
			require.Len(t, keys, 3)
			require.NoError(t, damage(b, keys[1], keys[0]))
			lane, _, err = Open(t.Context(), config(js))
			require.NoError(t, err)
			err = lane.Restore(t.Context(), func(*eventv1.Segment, []byte) error { return nil })
			require.ErrorIs(t, err, ErrDamaged)
			require.ErrorContains(t, err, keys[1])
			require.ErrorContains(t, err, name)
		})
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	js, b := newBucket(t)
	_, err := b.put(t.Context(), "dedup.3.manifest", []byte{8, 2}, 0) // format 2
	require.NoError(t, err)
	_, _, err = Open(t.Context(), config(js))
	require.ErrorIs(t, err, ErrFormat)
}

func TestLowest(t *testing.T) {
	js, _ := newBucket(t)
	lowest := func() uint64 {
		n, err := Lowest(t.Context(), js, "p", "dedup", []int{0, 1})
		require.NoError(t, err)
		return n
	}
	require.Zero(t, lowest())
	for lane, covered := range []uint64{9, 5} {
		cfg := config(js)
		cfg.Lane = lane
		l, _, err := Open(t.Context(), cfg)
		require.NoError(t, err)
		require.Zero(t, lowest(), "a lane without a checkpoint needs everything")
		require.NoError(t, l.Save(t.Context(), manifest(covered, 0), nil))
	}
	require.EqualValues(t, 5, lowest())
}

// TestKeepsAFew: what is kept is bounded, and spread out.
func TestKeepsAFew(t *testing.T) {
	js, b := newBucket(t)
	cfg := config(js)
	cfg.Keep = true
	lane, _, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	for i := range uint64(40) {
		require.NoError(t, lane.Save(t.Context(), manifest(i+1, 0), []Chunk{chunk(0, int64(i))}))
	}
	kept := lane.Earlier()
	require.Len(t, kept, maxEarlier)
	require.Zero(t, kept[0].GetCoveredSequence())
	require.EqualValues(t, 39, kept[len(kept)-1].GetCoveredSequence())
	for i := 1; i < len(kept); i++ {
		require.LessOrEqual(t, kept[i].GetCoveredSequence()-kept[i-1].GetCoveredSequence(), uint64(16))
	}
	lowest, err := Lowest(t.Context(), js, "p", "dedup", []int{0})
	require.NoError(t, err)
	require.Zero(t, lowest, "another lane")
	require.True(t, lane.Release(func(m *eventv1.Manifest) bool { return m.GetCoveredSequence() <= 40 }))
	require.NoError(t, lane.Save(t.Context(), lane.Saved(), nil))
	keys, err := b.list(t.Context(), "dedup.3.earlier.")
	require.NoError(t, err)
	require.Empty(t, keys)
	require.ElementsMatch(t, keysOf(lane.manifest), segmentKeys(t, b))
}

func TestRandomHistories(t *testing.T) {
	js, b := newBucket(t)
	cfg := config(js)
	cfg.SegmentBytes = 200
	r := rand.New(rand.NewPCG(1, 2))
	lane, _, err := Open(t.Context(), cfg)
	require.NoError(t, err)
	var all []Chunk
	horizon := int64(0)
	for i := range uint64(300) {
		var chunks []Chunk
		for range r.IntN(4) {
			times := make([]int64, 1+r.IntN(20))
			for j := range times {
				times[j] = horizon + r.Int64N(500)
			}
			chunks = append(chunks, chunk(horizon, times...))
			horizon += r.Int64N(60)
		}
		all = append(all, chunks...)
		require.NoError(t, lane.Save(t.Context(), manifest(i, horizon), chunks))
		if r.IntN(10) == 0 {
			lane, _, err = Open(t.Context(), cfg)
			require.NoError(t, err)
			require.Equal(t, visible(horizon, all), restored(t, lane))
			require.ElementsMatch(t, keysOf(lane.manifest), segmentKeys(t, b))
		}
	}
}
