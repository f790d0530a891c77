package control

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
	"sluice/libs/playground/nats/natstest"
	"sluice/libs/registry"
	"sluice/libs/service"
	"sluice/libs/spec"
)

// retiring is a pipeline of the lanes 2 and 3, which have replaced 0 and 1, and what its stages leave when it gets three.
type retiring struct {
	t      *testing.T
	server *natstest.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	reg    *registry.Registry
	zombie *fencedlog.Writer // of lane 2, in the dedup log
}

var retiringStages = []string{fencedlog.Dedup, fencedlog.Join}

func newRetiring(t *testing.T) *retiring {
	r := &retiring{t: t, server: natstest.New(t)}
	r.nc, r.js = natstest.Connect(t, r.server.URL())
	ctx := t.Context()
	var err error
	r.reg, err = registry.Open(ctx, r.js)
	require.NoError(t, err)
	rec := &controlv1.PipelineRecord{
		Uid: "u", Generation: 4, Desired: controlv1.DesiredState_RUNNING,
		Spec: &controlv1.Pipeline{Id: "p", Lanes: 2, Join: &controlv1.Join{Left: "a", Right: "b"}, Sources: map[string]*controlv1.Source{
			"a": {Kafka: &controlv1.KafkaSource{Topic: "a"}, Dedup: &controlv1.Dedup{Key: []string{"id"}}}, "b": {Kafka: &controlv1.KafkaSource{Topic: "b"}},
		}},
		LaneSets: []*controlv1.LaneSet{{First: 2, Count: 2}},
		Drained: map[string]*eventv1.Tally{
			"dedup": {Records: 1000, Rows: 900, Duplicates: 100}, "join": {Records: 900, Rows: 300, Matched: 250, Unmatched: 50}, "sink": {Records: 300, Rows: 299, DeadLetters: 1},
		},
	}
	require.Equal(t, []string{"ingest", "dedup", "join", "sink"}, spec.Stages(rec.Spec))
	require.NoError(t, r.service(r.js, r.reg).ensure(ctx, rec.Spec))
	r.kv, err = r.js.KeyValue(ctx, checkpoint.Bucket("p"))
	require.NoError(t, err)

	ingest := r.writer(fencedlog.Ingest, "a-0")
	body, err := proto.Marshal(&eventv1.IngestPosition{LanesFrom: 4})
	require.NoError(t, err)
	require.NoError(t, ingest.Settle(ctx, body))
	for lane := range 7 {
		for _, stage := range retiringStages {
			w := r.writer(stage, fmt.Sprint(lane))
			if lane == 2 && stage == fencedlog.Dedup {
				r.zombie = w
			}
			if lane >= 2 {
				_, err = w.Append(ctx, lane, "1", []byte("rows"))
				require.NoError(t, err)
			}
			m := &eventv1.Manifest{Closed: lane < 4, Inherited: lane >= 2, CoveredSequence: 1000, Core: []byte("core")}
			if n := uint64(lane); stage == fencedlog.Dedup {
				m.Tally = &eventv1.Tally{Records: 10 + n, Rows: 8 + n, Duplicates: 2}
			} else {
				m.Tally = &eventv1.Tally{Records: 8 + n, Rows: 5, Matched: 3, Unmatched: 2, Late: n}
			}
			state, _, err := checkpoint.Open(ctx, checkpoint.Config{JS: r.js, Pipeline: "p", Stage: stage, Lane: lane})
			require.NoError(t, err)
			for n := range 2 {
				m.CoveredSequence++
				require.NoError(t, state.Save(ctx, m, []checkpoint.Chunk{{Data: []byte{byte(n)}, Entries: 1, MinMS: 1, MaxMS: 1}}))
			}
		}
	}
	for lane := range 7 {
		if lane != 3 { // which is behind
			r.position(lane, 1000)
		}
	}
	_, err = r.reg.Create(ctx, rec)
	require.NoError(t, err)
	return r
}

func (r *retiring) writer(stage, name string) *fencedlog.Writer {
	w, _, err := fencedlog.Open(r.t.Context(), r.js, fencedlog.Log{Pipeline: "p", Stage: stage}, name, fencedlog.Options{})
	require.NoError(r.t, err)
	return w
}

func (r *retiring) position(lane int, covered uint64) {
	p := &eventv1.SinkPosition{Format: 1, CoveredSequence: covered, Owner: "s", Session: "s", Tally: &eventv1.Tally{Records: 5, Rows: 4, DeadLetters: uint64(lane)}}
	value, err := proto.Marshal(p)
	require.NoError(r.t, err)
	_, err = r.kv.Put(r.t.Context(), checkpoint.PositionKey(lane), value)
	require.NoError(r.t, err)
}

func (r *retiring) service(js jetstream.JetStream, reg *registry.Registry) *Service {
	s, err := New(service.Deps{Instance: "i", NATS: r.nc, JS: js, Log: slog.New(slog.DiscardHandler)}, reg, Config{CheckEvery: 20 * time.Millisecond})
	require.NoError(r.t, err)
	return s
}

// run is a process of the service, of which a user wants three lanes until he has heard that he gets them, until it crashes or nothing is left of the lanes before.
func (r *retiring) run(js jetstream.JetStream, crashes bool) error {
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	limit := time.After(time.Minute)
	if f, ok := js.(*natstest.Steps); ok && crashes {
		f.Crash = cancel
	}
	reg, err := registry.Open(ctx, js)
	require.NoError(r.t, err)
	s := r.service(js, reg)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(r.t, <-ended)
	}()
	asked := false
	for ctx.Err() == nil {
		if !asked {
			_, err := s.change(ctx, "p", wantThree)
			asked = err == nil
		}
		rec, _, err := r.reg.Get(r.t.Context(), "p")
		require.NoError(r.t, err)
		if p, _, err := positionOf(r.t.Context(), r.kv, 3); len(rec.GetLaneSets()) == 2 && err == nil && p.GetCoveredSequence() == 0 {
			r.position(3, 1000) // now it is through
		}
		if asked && len(r.left()) == 0 {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		case <-limit:
			return fmt.Errorf("it does not come to its end: left are %v", r.left())
		}
	}
	return nil
}

// wantThree is what an update does to the record.
func wantThree(rec *controlv1.PipelineRecord) (bool, error) {
	if err := changingLanes(rec, 3); err != nil || rec.Spec.Lanes == 3 {
		return false, err
	}
	changeLanes(rec, 3)
	rec.Spec.Lanes = 3
	rec.Generation++
	return true, nil
}

// left is what the lanes of before have left, and where the record still has them.
func (r *retiring) left() (out []string) {
	ctx := r.t.Context()
	rec, _, err := r.reg.Get(ctx, "p")
	require.NoError(r.t, err)
	if sets := rec.GetLaneSets(); len(sets) != 1 || sets[0].GetFirst() != 4 {
		out = append(out, "record")
	}
	keys, err := r.kv.Keys(ctx)
	require.NoError(r.t, err)
	for lane := range 4 {
		for _, key := range keys {
			for _, stage := range retiringStages {
				if of := fmt.Sprintf("%s.%d.", stage, lane); strings.HasPrefix(key, of) && key != of+"manifest" {
					out = append(out, key)
				}
			}
		}
		p, _, err := positionOf(ctx, r.kv, lane)
		require.NoError(r.t, err)
		if !p.GetClosed() {
			out = append(out, checkpoint.PositionKey(lane))
		}
	}
	for _, stage := range retiringStages {
		fences, err := fencedlog.Fences(ctx, r.js, fencedlog.Log{Pipeline: "p", Stage: stage})
		if err != nil {
			out = append(out, "fences of "+stage) // one was removed this moment
			continue
		}
		for lane := range 4 {
			if _, there := fences[fmt.Sprint(lane)]; there {
				out = append(out, fmt.Sprintf("fence %d of %s", lane, stage))
			}
		}
	}
	return out
}

// TestEveryFaultOfTheEndOfLanes: durable step 0, 1, 2, … of a change, from the record that begins it to the last fence that is removed, fails, is done but
// reported as failed, or is the last thing that the process does. The lanes of before are gone at the end, and counted once.
func TestEveryFaultOfTheEndOfLanes(t *testing.T) {
	want := map[string]*eventv1.Tally{
		"dedup": {Records: 1000 + 12 + 13, Rows: 900 + 10 + 11, Duplicates: 104},
		"join":  {Records: 900 + 10 + 11, Rows: 310, Matched: 256, Unmatched: 54, Late: 5},
		"sink":  {Records: 310, Rows: 307, DeadLetters: 1 + 2 + 3},
	}
	for name, kind := range map[string]struct{ done, crashes bool }{
		"refused": {}, "unheard": {done: true}, "crashed before": {crashes: true}, "crashed after": {done: true, crashes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := int64(0); ; at++ {
				r := newRetiring(t)
				f := &natstest.Steps{JetStream: r.js, Done: kind.done, At: at, Purges: true}
				require.NoError(t, r.run(f, kind.crashes), "fault at %d", at)
				require.NoError(t, r.run(r.js, false), "after the fault at %d", at)
				r.right(want, fmt.Sprintf("fault at %d", at))
				r.nc.Close()
				r.server.Stop()
				if f.Taken() <= at {
					require.Greater(t, at, int64(15), "records, checkpoints, positions and fences were tried")
					return
				}
			}
		})
	}
}

// right checks what is there when nothing is left to do.
func (r *retiring) right(want map[string]*eventv1.Tally, what string) {
	t, ctx := r.t, r.t.Context()
	rec, _, err := r.reg.Get(ctx, "p")
	require.NoError(t, err)
	require.EqualValues(t, 5, rec.GetGeneration(), "%s: one change", what)
	require.Len(t, rec.GetDrained(), len(want), what)
	for stage, tally := range want {
		require.True(t, proto.Equal(tally, rec.GetDrained()[stage]), "%s: %s: %v", what, stage, rec.GetDrained()[stage])
	}
	for lane := range 7 {
		for _, stage := range retiringStages {
			left, _, err := checkpoint.LeftBy(ctx, checkpoint.Config{JS: r.js, Pipeline: "p", Stage: stage}, []int{lane})
			require.NoError(t, err)
			m := left.Manifests()[0]
			require.Equal(t, lane < 4, m.GetRetired(), "%s: %s of lane %d", what, stage, lane)
			require.Equal(t, lane < 4, m.GetClosed(), "%s: %s of lane %d", what, stage, lane)
			require.Equal(t, lane < 4, len(m.GetSegments()) == 0, "%s: %s of lane %d", what, stage, lane)
			require.NotZero(t, m.GetTally().GetRecords(), what)
		}
		p, _, err := positionOf(ctx, r.kv, lane)
		require.NoError(t, err)
		require.Equal(t, lane < 4, p.GetClosed(), "%s: position of lane %d", what, lane)
		require.EqualValues(t, lane, p.GetTally().GetDeadLetters(), what)
	}
	for _, stage := range retiringStages {
		fences, err := fencedlog.Fences(ctx, r.js, fencedlog.Log{Pipeline: "p", Stage: stage})
		require.NoError(t, err)
		require.Len(t, fences, 3, what)
	}
	_, err = r.zombie.Append(ctx, 2, "2", []byte("from a zombie"))
	require.ErrorIs(t, err, fencedlog.ErrFenced, what)
}

// TestFencesStayUntilTheyAreRead: a lane that has read nothing reads on from where the log begins, and must find that beginning whenever it comes.
func TestFencesStayUntilTheyAreRead(t *testing.T) {
	r := newRetiring(t)
	ctx, log := t.Context(), fencedlog.Log{Pipeline: "p", Stage: fencedlog.Dedup}
	rec, _, err := r.reg.Get(ctx, "p")
	require.NoError(t, err)
	rec.LaneSets = []*controlv1.LaneSet{{First: 4, Count: 3}}
	covers := func(sequence uint64) {
		state, m, err := checkpoint.Open(ctx, checkpoint.Config{JS: r.js, Pipeline: "p", Stage: fencedlog.Join, Lane: 4})
		require.NoError(t, err)
		m.CoveredSequence, m.Earlier = sequence, nil
		require.NoError(t, state.Save(ctx, m, nil))
		reader, err := fencedlog.OpenReader(ctx, r.js, log, 4, sequence+1)
		require.NoError(t, err, "it has read up to %d", sequence)
		reader.Close()
	}
	covers(0)
	s := r.service(r.js, r.reg)
	done, err := s.emptyLanes(ctx, rec)
	require.NoError(t, err)
	require.False(t, done)
	covers(0)
	fences, err := fencedlog.Fences(ctx, r.js, log)
	require.NoError(t, err)
	require.Len(t, fences, 7)

	_, last, err := fencedlog.Bounds(ctx, r.js, log)
	require.NoError(t, err)
	covers(last)
	done, err = s.emptyLanes(ctx, rec)
	require.NoError(t, err)
	require.True(t, done)
	fences, err = fencedlog.Fences(ctx, r.js, log)
	require.NoError(t, err)
	require.Len(t, fences, 3)
}
