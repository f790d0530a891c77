package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"sluice/libs/playground/nats/natstest"
)

// fault is what happens to one durable step.
type fault int

const (
	refused fault = iota // it is not done, and fails
	unheard              // it is done, but reported as failed
	crashed              // it is done, and then the process is gone
)

func (f fault) String() string {
	return [...]string{"failed", "done, but reported as failed", "crash right after"}[f]
}

var errInjected = errors.New("injected")

// saboteur is a connection on which one durable step goes wrong: to make, change or remove a stream, to publish, to purge.
type saboteur struct {
	jetstream.JetStream
	fault fault
	at    int // which step, from 0

	mu    sync.Mutex
	steps int                // guarded by mu
	dead  bool               // guarded by mu; after the crash nothing is done any more
	what  string             // guarded by mu; the step that went wrong
	crash context.CancelFunc // ends the process
}

func (s *saboteur) step(what string, do func() error) error {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return errInjected
	}
	hit := s.steps == s.at
	s.steps++
	if hit {
		s.what = what
	}
	s.mu.Unlock()
	if !hit {
		return do()
	}
	if s.fault != refused {
		if err := do(); err != nil {
			return err
		}
	}
	if s.fault == crashed {
		s.mu.Lock()
		s.dead = true
		s.mu.Unlock()
		s.crash()
	}
	return errInjected
}

// wake lets a process that was taken for dead go on.
func (s *saboteur) wake() {
	s.mu.Lock()
	s.dead = false
	s.mu.Unlock()
}

func (s *saboteur) count() (steps int, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.steps, s.what
}

func (s *saboteur) PublishMsg(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (ack *jetstream.PubAck, err error) {
	err = s.step("publish to "+msg.Subject, func() (err error) {
		ack, err = s.JetStream.PublishMsg(ctx, msg, opts...)
		return err
	})
	return ack, err
}

func (s *saboteur) CreateStream(ctx context.Context, c jetstream.StreamConfig) (out jetstream.Stream, err error) {
	err = s.step("create "+c.Name, func() (err error) {
		out, err = s.JetStream.CreateStream(ctx, c)
		return err
	})
	return out, err
}

func (s *saboteur) UpdateStream(ctx context.Context, c jetstream.StreamConfig) (out jetstream.Stream, err error) {
	err = s.step("update "+c.Name, func() (err error) {
		out, err = s.JetStream.UpdateStream(ctx, c)
		return err
	})
	return out, err
}

func (s *saboteur) DeleteStream(ctx context.Context, name string) error {
	return s.step("delete "+name, func() error { return s.JetStream.DeleteStream(ctx, name) })
}

func (s *saboteur) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	out, err := s.JetStream.Stream(ctx, name)
	return &sabotagedStream{out, s}, err
}

type sabotagedStream struct {
	jetstream.Stream
	by *saboteur
}

func (s *sabotagedStream) Purge(ctx context.Context, opts ...jetstream.StreamPurgeOpt) error {
	return s.by.step("purge "+s.CachedInfo().Config.Name, func() error { return s.Stream.Purge(ctx, opts...) })
}

const (
	foldLanes  = 2
	foldInputs = 12 // of each writer
)

var foldWriters = []string{"0", "1"}

// foldRun is a stage in miniature: two writers that deal their inputs out to two lanes and the dead letters, and one reader of
// each lane, up to which the log is purged.
type foldRun struct {
	log, letters Log
	got          [foldLanes][]string // what the readers have seen; theirs is a checkpoint that nothing happens to
	next         [foldLanes]uint64
}

// stage is what a process holds.
type stage struct {
	writers, letters map[string]*Writer
}

// run does all there is to do, from whatever the log says is done. It is what a process does that was just started.
func (r *foldRun) run(ctx context.Context, js jetstream.JetStream) (*stage, error) {
	s := &stage{writers: map[string]*Writer{}, letters: map[string]*Writer{}}
	// A small limit: the purge does not wait until it is worth the cost.
	for _, log := range []Log{r.log, r.letters} {
		if err := Ensure(ctx, js, log, Limits{MaxBytes: 24 << 10}); err != nil {
			return s, err
		}
	}
	past, pastLetters := map[string]Recovered{}, map[string]Recovered{}
	for _, name := range foldWriters {
		var err error
		if s.writers[name], past[name], err = Open(ctx, js, r.log, name, Options{Lanes: []int{0, 1}}); err != nil {
			return s, err
		}
		if s.letters[name], pastLetters[name], err = Open(ctx, js, r.letters, name, Options{Lanes: []int{0}}); err != nil {
			return s, err
		}
	}
	for input := range foldInputs {
		for n, name := range foldWriters {
			if n == 1 && input == foldInputs-1 {
				continue // the last of all is settled alone: the purge has to go by each writer's own fence
			}
			if err := s.input(ctx, name, input, past[name], pastLetters[name].Last[0]); err != nil {
				return s, err
			}
		}
		if input%4 == 3 {
			if err := r.read(ctx, js); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// input deals out one input: the fifth of each writer is a dead letter.
func (s *stage) input(ctx context.Context, name string, input int, past Recovered, lastLetter Last) error {
	settled, position := -1, strconv.Itoa(input)
	if past.Body != nil {
		settled, _ = strconv.Atoi(string(past.Body))
	}
	if input <= settled {
		return nil
	}
	body := fmt.Appendf(make([]byte, 0, 1<<10), "%s/%d", name, input)
	body = body[:cap(body)] // a kilobyte: a quarter of the limit is soon there
	w, lane, last := s.writers[name], input%foldLanes, past.Last[input%foldLanes]
	if input%5 == 4 {
		w, lane, last = s.letters[name], 0, lastLetter
	}
	if last.Sequence == 0 || number(last.Position) < input {
		if _, err := w.Append(ctx, lane, position, body); err != nil {
			return err
		}
	}
	if input%3 == 2 {
		return s.writers[name].Settle(ctx, []byte(position))
	}
	return nil
}

func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// read reads both lanes to their ends and purges what they have read.
func (r *foldRun) read(ctx context.Context, js jetstream.JetStream) error {
	stream, err := js.Stream(ctx, r.log.Stream())
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(r.log.AllFilter()))
	if err != nil {
		return err
	}
	for lane := range foldLanes {
		if err := r.readLane(ctx, js, stream, lane); err != nil {
			return err
		}
	}
	keep := info.State.LastSeq // was read in both lanes, whichever it belongs to
	if err := Purge(ctx, js, r.log, keep); err != nil {
		return err
	}
	return nil
}

func (r *foldRun) readLane(ctx context.Context, js jetstream.JetStream, stream jetstream.Stream, lane int) error {
	for {
		msg, err := stream.GetMsg(ctx, max(1, r.next[lane]), jetstream.WithGetMsgSubject(r.log.LaneFilter(lane)))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		r.got[lane] = append(r.got[lane], string(trimZeros(msg.Data)))
		r.next[lane] = msg.Sequence + 1
	}
}

func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return b
}

// Each durable step of making a log, becoming its writer, appending, settling, writing dead letters and purging goes wrong in each
// way: step 0, 1, 2, … until a run goes through before its fault. Every message is in the log once and in order, the positions survive
// every purge, and a process that was taken for dead gets nothing in.
func TestEveryFaultOfEveryStep(t *testing.T) {
	url := natstest.Start(t)
	for _, fault := range []fault{refused, unheard, crashed} {
		t.Run(fault.String(), func(t *testing.T) {
			t.Parallel()
			hit := map[string]int{}
			for at := 0; ; at++ {
				steps, what := faultyFold(t, url, fault, at)
				if steps <= at {
					require.Greater(t, at, 40, "steps")
					t.Logf("%d steps: %v", steps, hit)
					for _, kind := range []string{"create", "update", "publish", "purge"} {
						require.Positive(t, hit[kind], kind)
					}
					return
				}
				kind, _, _ := strings.Cut(what, " ")
				hit[kind]++
			}
		})
	}
}

func faultyFold(t *testing.T, url string, fault fault, at int) (steps int, what string) {
	js := connect(t, url)
	pipeline := fmt.Sprintf("p%d-%d", fault, at)
	r := &foldRun{log: Log{pipeline, Ingest}, letters: Log{pipeline, DeadLetters}}
	ctx, crash := context.WithCancel(contextFor(t))
	defer crash()
	s := &saboteur{JetStream: js, fault: fault, at: at, crash: crash}
	first, err := r.run(ctx, s)
	for restarts := 0; err != nil && fault != crashed; restarts++ {
		// What does not wait by itself is tried again by who called it.
		require.ErrorIs(t, err, errInjected)
		require.Less(t, restarts, 1, "one fault, one error")
		first, err = r.run(ctx, s)
	}
	steps, what = s.count()
	name := fmt.Sprintf("%s, step %d: %s", fault, at, what)
	if fault != crashed || what == "" {
		require.NoError(t, err, name)
	}

	ctx = contextFor(t)
	heir, err := r.run(ctx, js)
	require.NoError(t, err, name)
	s.wake()
	for _, zombie := range []map[string]*Writer{first.writers, first.letters} {
		for _, w := range zombie {
			if w != nil {
				_, err := w.Append(ctx, 0, "99", []byte("from the zombie"))
				require.ErrorIs(t, err, ErrFenced, name)
			}
		}
	}
	require.NoError(t, r.read(ctx, js), name)
	r.requireAll(t, js, name)
	require.NoError(t, heir.writers["0"].Settle(ctx, []byte("11")), name)
	_, rec, err := Open(ctx, js, r.log, "1", Options{Lanes: []int{0, 1}})
	require.NoError(t, err, name)
	require.Equal(t, "8", string(rec.Body), name)
	require.Equal(t, "10", rec.Last[0].Position, "what is not settled survives the purge: %s", name)

	// The end of a pipeline, with the same fault.
	ctx, crash = context.WithCancel(contextFor(t))
	defer crash()
	end := &saboteur{JetStream: js, fault: fault, at: 0, crash: crash}
	require.ErrorIs(t, Remove(ctx, end, r.log), errInjected, name)
	require.NoError(t, Remove(contextFor(t), js, r.log), name)
	require.NoError(t, Remove(contextFor(t), js, r.letters), name)
	return steps, what
}

// requireAll compares what was read, and the dead letters, with what went in.
func (r *foldRun) requireAll(t *testing.T, js jetstream.JetStream, name string) {
	ctx := contextFor(t)
	letters := map[string][]string{}
	stream, err := js.Stream(ctx, r.letters.Stream())
	require.NoError(t, err, name)
	for next := uint64(1); ; {
		msg, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(r.letters.LaneFilter(0)))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		require.NoError(t, err, name)
		writer, _ := r.letters.writerOf(msg.Subject)
		letters[writer] = append(letters[writer], string(trimZeros(msg.Data)))
		next = msg.Sequence + 1
	}
	for n, writer := range foldWriters {
		var want [foldLanes][]string
		var wantLetters []string
		for input := range foldInputs - n {
			text := fmt.Sprintf("%s/%d", writer, input)
			if input%5 == 4 {
				wantLetters = append(wantLetters, text)
			} else {
				want[input%foldLanes] = append(want[input%foldLanes], text)
			}
		}
		require.Equal(t, wantLetters, letters[writer], name)
		for lane := range foldLanes {
			var got []string
			for _, text := range r.got[lane] {
				if strings.HasPrefix(text, writer+"/") {
					got = append(got, text)
				}
			}
			require.Equal(t, want[lane], got, "lane %d: %s", lane, name)
		}
	}
}
