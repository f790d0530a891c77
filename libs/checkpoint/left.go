package checkpoint

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

// Left is what the lanes of a set leave behind that another set replaces: their last checkpoints.
type Left struct {
	lanes []*Lane
}

// LeftBy reads the checkpoints of lanes of a stage without taking the lanes over. open are those that are not closed: as long as there are any, what
// is left is not known.
func LeftBy(ctx context.Context, cfg Config, lanes []int) (left *Left, open []int, err error) {
	b, err := openBucket(ctx, cfg.JS, Bucket(cfg.Pipeline))
	if err != nil {
		return nil, nil, err
	}
	left = &Left{}
	for _, lane := range lanes {
		of := cfg
		of.Lane = lane
		l := &Lane{cfg: of, bucket: b, prefix: cfg.Stage + "." + strconv.Itoa(lane) + "."}
		if l.manifest, _, err = l.load(ctx); err != nil {
			return nil, nil, err
		}
		if !l.manifest.GetClosed() {
			open = append(open, lane)
		}
		left.lanes = append(left.lanes, l)
	}
	return left, open, nil
}

// Manifests are the lanes' last ones.
func (l *Left) Manifests() []*eventv1.Manifest {
	out := make([]*eventv1.Manifest, len(l.lanes))
	for i, lane := range l.lanes {
		out[i] = lane.manifest
	}
	return out
}

// SegmentsOf hands the segments of one of the lanes to the caller, as Manifests numbers them, one at a time and in order.
func (l *Left) SegmentsOf(ctx context.Context, i int, take func(s *eventv1.Segment, data []byte) error) error {
	return handOver(ctx, segmentsOf(l.lanes[i]), take)
}

// Segments hands the segments of all lanes to the caller, one at a time and of each part the oldest first.
func (l *Left) Segments(ctx context.Context, take func(s *eventv1.Segment, data []byte) error) error {
	all := segmentsOf(l.lanes...)
	slices.SortStableFunc(all, func(a, b leftSegment) int {
		return cmp.Or(cmp.Compare(a.GetPart(), b.GetPart()), cmp.Compare(a.GetMinTimeMs(), b.GetMinTimeMs()))
	})
	return handOver(ctx, all, take)
}

type leftSegment struct {
	*eventv1.Segment
	lane *Lane
}

func segmentsOf(lanes ...*Lane) (all []leftSegment) {
	for _, lane := range lanes {
		for _, s := range lane.manifest.GetSegments() {
			all = append(all, leftSegment{s, lane})
		}
	}
	return all
}

func handOver(ctx context.Context, all []leftSegment, take func(s *eventv1.Segment, data []byte) error) error {
	return inOrder(ctx, len(all),
		func(ctx context.Context, i int) ([]byte, error) { return all[i].lane.fetch(ctx, all[i].Segment) },
		func(i int, data []byte) error {
			if err := take(all[i].Segment, data); err != nil {
				return fmt.Errorf("take over %s: %w", all[i].Key, err)
			}
			return nil
		})
}

// Retired tells whether Retire has been done with a lane.
func Retired(ctx context.Context, cfg Config) (bool, error) {
	left, _, err := LeftBy(ctx, cfg, []int{cfg.Lane})
	return err == nil && left.Manifests()[0].GetRetired(), err
}

// Retire removes the state of a lane that the pipeline has no more: it is closed, and its state was taken over. What it has counted stays, and that it is
// closed. From here on an owner of before, that was stopped and wakes up, can save nothing.
func Retire(ctx context.Context, cfg Config) error {
	// Looked at without taking it over: it is asked for again and again, for every lane that there ever was.
	if done, err := Retired(ctx, cfg); err != nil || done {
		return err
	}
	l, m, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	m = proto.CloneOf(m)
	m.Closed, m.Core, m.HorizonMs = true, nil, math.MaxInt64
	for part := range m.GetHorizonsMs() {
		m.HorizonsMs[part] = math.MaxInt64
	}
	l.Forget()
	if err := l.Save(ctx, m, nil); err != nil {
		return err
	}
	if len(l.known) > 0 { // nobody opens the lane any more, who would collect them
		return fmt.Errorf("%d keys of %s are not removed yet", len(l.known), l.manifestKey())
	}
	// A crash before this: what is left is collected when all of it is done again.
	m.Retired = true
	return l.Save(ctx, m, nil)
}
