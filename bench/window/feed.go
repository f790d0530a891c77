//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

const (
	batchRows = 8192
	firstMS   = int64(1_790_000_000_000) // when the first event arrives
	probeRows = 100
	every     = 100 * time.Millisecond // of what trickles in
)

// feed writes the ingest log: keys that were never there, at times of its own.
type feed struct {
	js     jetstream.JetStream
	writer *fencedlog.Writer
	out    fencedlog.Log
	lanes  int
	window time.Duration

	next    uint64  // number of the next key
	nowMS   int64   // when it arrives
	offsets []int64 // by lane
	behind  func(ctx context.Context) (uint64, error)
	first   [][][2]uint64 // the first keys of each lane: what a probe asks for
}

// key is the fingerprint of a number: both words are spread evenly, as those of a hash are, and no two are the same.
func key(n uint64) [2]uint64 { return [2]uint64{mix(n), mix(n ^ 1<<63)} }

// mix is splitmix64: one word for each number.
func mix(n uint64) uint64 {
	x := n*0x9e3779b97f4a7c15 + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill lets so many keys arrive, evenly over the window but for its last hour, and waits until they are folded in.
func (f *feed) fill(ctx context.Context, keys int) (int, error) {
	span := (f.window - time.Hour).Milliseconds()
	began := f.nowMS
	pending := make([][][2]uint64, f.lanes)
	var g errgroup.Group
	flush := func() error {
		for lane, keys := range pending {
			g.Go(func() error { return f.append(ctx, lane, keys) })
		}
		return g.Wait()
	}
	for n := range keys {
		k := key(f.next)
		f.next++
		lane := batch.Share(k[0], f.lanes)
		if len(f.first[lane]) < probeRows {
			f.first[lane] = append(f.first[lane], k)
		}
		pending[lane] = append(pending[lane], k)
		if n%(batchRows*f.lanes) == batchRows*f.lanes-1 || n == keys-1 {
			f.nowMS = began + int64(float64(span)*float64(n)/float64(keys))
			if err := flush(); err != nil {
				return 0, err
			}
			for lane := range pending {
				pending[lane] = pending[lane][:0]
			}
		}
	}
	return keys, f.settled(ctx)
}

// trickle lets keys arrive at a rate, by the clock.
func (f *feed) trickle(ctx context.Context, d time.Duration, rate int) (events int, err error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for range int(d / every) {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-ticker.C:
		}
		pending := make([][][2]uint64, f.lanes)
		for range int(float64(rate) * every.Seconds()) {
			k := key(f.next)
			f.next++
			pending[batch.Share(k[0], f.lanes)] = append(pending[batch.Share(k[0], f.lanes)], k)
			events++
		}
		f.nowMS += every.Milliseconds()
		for lane, keys := range pending {
			if err := f.append(ctx, lane, keys); err != nil {
				return 0, err
			}
		}
	}
	return events, f.settled(ctx)
}

func (f *feed) append(ctx context.Context, lane int, keys [][2]uint64) error {
	_, err := f.send(ctx, lane, keys)
	return err
}

func (f *feed) send(ctx context.Context, lane int, keys [][2]uint64) (sequence uint64, err error) {
	if len(keys) == 0 {
		return 0, nil
	}
	var b batch.Builder
	for _, k := range keys {
		b.Add(batch.Row{Offset: f.offsets[lane], Key: k}, batch.Fields{Keys: true})
		f.offsets[lane]++
	}
	b.SetTimes(f.nowMS)
	var v batch.View
	b.View(&v, func(dst []byte) []byte { return dst })
	v.Topic, v.ArrivalMS = []byte("events"), f.nowMS
	return f.writer.Append(ctx, lane, strconv.FormatInt(f.offsets[lane], 10), v.Append(make([]byte, 0, v.Size())))
}

// settled waits until nothing is left to fold in.
func (f *feed) settled(ctx context.Context) error {
	for {
		n, err := f.behind(ctx)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// probe is a question to a lane: keys that arrived first, and are duplicates as long as the window goes.
type probe struct {
	reader   *fencedlog.Reader
	sequence uint64
}

// probe asks every lane.
func (f *feed) probe(ctx context.Context) (probes []probe, err error) {
	stream, err := f.js.Stream(ctx, f.out.Stream())
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, err
	}
	for lane := range f.lanes {
		p := probe{}
		if p.sequence, err = f.send(ctx, lane, f.first[lane]); err != nil {
			return nil, err
		}
		if p.reader, err = fencedlog.OpenReader(ctx, f.js, f.out, lane, info.State.LastSeq+1); err != nil {
			return nil, err
		}
		probes = append(probes, p)
	}
	return probes, nil
}

// answer waits for the answer and checks it.
func (p probe) answer(ctx context.Context) error {
	defer p.reader.Close()
	for {
		m, err := p.reader.Next(ctx)
		if err != nil {
			return err
		}
		var v batch.View
		if err := v.Parse(m.Data); err != nil {
			return err
		}
		if v.InputSequence < p.sequence {
			continue
		}
		if v.InputSequence > p.sequence || v.Selected != 0 || v.Rows != probeRows {
			return fmt.Errorf("of %d keys that are in the window %d passed: the state is not what it was", v.Rows, v.Selected)
		}
		return nil
	}
}
