// Package fold runs one lane of a stage with windowed state: it reads the stage's upstream log, hands each batch to the stage's
// Core, appends what that puts out to the stage's own log, and keeps the Core's state as checkpoints.
//
// Guaranteed, whatever is killed when: the Core sees every message of its lane once and in order, as far as its state tells; what
// a step puts out is in the output log once and in order. So what the log says depends on the input alone. The order of things
// durable is: outputs and refusals, then the checkpoint that covers them, then the purge of the input. After a crash the state
// is restored and the inputs behind it are folded again; what is in the log already is not encoded again. Memory is bounded by the
// Core's state, by what it puts out in one Append, and by the input between two checkpoints.
//
// When JetStream loses the end of the input or of the output, which it had acknowledged, that is noticed, also while the lane runs. The lane then goes on
// by itself, repeats nothing and leaves nothing out, and its status keeps saying what was lost and how many rows were left out because they had come
// before. Where it cannot, it stands still and says so: a Core that can neither Remember nor Replay has put out more than its checkpoint
// covers; both logs have lost their tails while a Replayer was making up for a loss; nothing is left that reaches back far enough; the state bucket has lost more than the input still holds.
// Where both logs of a Replayer have lost their tails, and the next stage has what the output log lost, that is put out again: each message says which one it
// follows (fencedlog.Link), so that the next stage finds that it has been further, and looks which rows it has.
//
// Not guaranteed: what comes of a lost tail of both logs at once where a lane puts out into several lanes; the next
// stage leaves out what it has, but a row and its repetition from another partition may then both pass. Nor that two instances never work on one lane at once. They may for a moment; what the one that was replaced appends or
// saves is refused.
//
// # Positions
//
// What a step puts out is placed in the output log by the input: "<sequence>" on the last message of a step says that the step is in
// the log as a whole, "<sequence>/<part>" that the parts up to this one are, counted from 0. Messages of all output lanes are appended one after the
// other, so the largest position in any lane tells for all. A step that puts out nothing leaves no message; the fence, whose body is
// a position, too, covers it.
//
// # Counts
//
// Input.Tally is the lane's, cumulative and part of the checkpoint. The Core adds to it in Step, and puts a copy into each batch that it puts out. After a
// Step that fails it is as before.
package fold

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	eventv1 "sluice/gen/sluice/event/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/deadletters"
	"sluice/libs/fencedlog"
	"sluice/libs/lanes"
	"sluice/libs/spec"
)

const (
	// DefaultInterval and DefaultBytes: a checkpoint is made after so much time or input, whichever comes first. It bounds what
	// a restart has to replay, and how much of the input cannot be purged.
	DefaultInterval = 5 * time.Second
	DefaultBytes    = 64 << 20
	// grace is how long outputs and the last checkpoint may take once the lane is to stop.
	grace = 10 * time.Second
)

// ErrBroken says that the Core's state is of no further use, when a disk has failed for instance: the lane ends, no checkpoint is made, and whoever
// takes it next restores the last one.
var ErrBroken = errors.New("the lane's state is of no further use")

// Core is what a stage does with the batches of a lane. It is used by one goroutine, for one Run.
type Core interface {
	// Restore brings back the state of a checkpoint. m is empty when there is none; it must not be changed. segments calls each for every
	// segment, of each part oldest first. It is called once, before anything else.
	Restore(ctx context.Context, m *eventv1.Manifest, segments func(each func(*eventv1.Segment, []byte) error) error) error
	// Step folds one batch. It is pure: state and outputs depend on the state and the batch alone. After an error that it
	// returns before its first Append or Refuse the state must be as before; the lane then stands still and says why. An
	// error of the Emitter is to be returned as it is. One that wraps ErrBroken ends the lane whatever the state is.
	Step(in Input, out Emitter) error
	// Checkpoint adds the Core's own fields to m (horizons, core, ...) and returns the entries that are new since the last call.
	Checkpoint(m *eventv1.Manifest) []checkpoint.Chunk
	// Report adds the Core's own fields to the lane's status. The rest of it is the runner's.
	Report(*stagev1.UnitStatus)
	Close() error
}

// Adopter is a Core whose decisions depend on something that a user may change while the pipeline runs, a window for
// instance. Restore must go back to what the checkpoint was made under, so that what is in the log is replayed under it.
type Adopter interface {
	// Adopt is called before each step whose outputs are not in the log yet. It changes over to what is asked for now and returns
	// whether that changed anything; a checkpoint that says so is durable before the step.
	Adopt() (changed bool, err error)
}

// Input is one batch of the upstream log.
type Input struct {
	Sequence uint64
	Time     time.Time // when the server stored it
	Writer   string
	// View is the batch. It and the message that it points into are valid until Step returns. The Core may change the View, but not the
	// bytes it points to; the selection may be missing rows that were taken before (see Taken).
	View *batch.View
	// Published says that all outputs of this step are in the log: whatever is emitted is dropped without being encoded.
	Published bool
	Tally     *batch.Tally
	// Link leads from the step's span to that of another batch which has a part in what the step puts out. Nil: nothing is
	// traced.
	Link func(trace.SpanContext)
}

// Emitter takes what a step puts out, in order.
type Emitter interface {
	// Append puts a message into an output lane; encode appends it to dst and returns the result, before Append returns. It is not called
	// when that message is in the log already. Append blocks while the queue is full.
	Append(lane int, encode func(dst []byte) []byte) error
	// Refuse sends rows to the dead letters. The runner leaves out those that are there already.
	Refuse([]deadletters.Refusal) error
}

// Letters is the dead-letter log as Refuse needs it: see deadletters.Writer.
type Letters interface {
	Append(ctx context.Context, position string, refusals []deadletters.Refusal) error
	Mark() *eventv1.LettersMark
	Missing(had *eventv1.LettersMark) deadletters.Loss
	Remake(ctx context.Context, had *eventv1.LettersMark) (deadletters.Loss, error)
}

// Unit is what a lane needs of its owner: see lanes.Lane.
type Unit interface {
	Report(func(*stagev1.UnitStatus))
	Running()
	Checkpoints() <-chan chan<- error
}

// Step is what the runner tells about one step.
type Step struct {
	// Input is what the Core was given; the Core may have changed its View. Valid until Stepped returns. The View is nil when all of the
	// batch had been taken before.
	Input         Input
	Before, After batch.Tally
	Bytes         int // of the input message
	Took          time.Duration
}

// Options of a lane.
type Options struct {
	JS       jetstream.JetStream
	Log      *slog.Logger
	Unit     Unit
	Pipeline string // id
	Stage    string // whose state it is, and whose log is written: dedup, join
	Lane     int
	// Set is the set of lanes that Lane is of. Before is the one that it replaces, while that is being drained; Replaced says that Set is that one itself.
	Set      spec.LaneSet
	Before   spec.LaneSet // Count 0: none
	Replaced bool
	// Live are all lanes that may still read Input.
	Live []int
	// Same tells whether the pipeline still has these lanes: see lanes.Same. Nil: it has.
	Same func(context.Context) (bool, error)
	// Generation of the pipeline's record, which checkpoints note. NotBehind tells why one that notes a later one must not be gone on with by it: see
	// lanes.NotBehind. Nil: it may.
	Generation uint64
	NotBehind  func(ctx context.Context, seen uint64) error
	// Input and Output are the logs. Next is the stage that reads Output.
	Input, Output fencedlog.Log
	Next          string
	// KeepInput is how long what is needed no more stays in Input: see fencedlog.Purger.
	KeepInput time.Duration
	// Outputs are the lanes that the Core appends to; nil: the lane itself.
	Outputs []int
	// SealAfter, by part of the state: see checkpoint.Config.
	SealAfter map[string]time.Duration
	// Interval and Bytes of input between checkpoints; 0: the defaults.
	Interval time.Duration
	Bytes    int
	// Letters opens the dead-letter log as this lane's writer and returns the position of its last message. Nil: the Core refuses nothing.
	Letters func(ctx context.Context) (letters Letters, last string, err error)
	// Tracer makes the spans of steps and appends; nil: none.
	Tracer trace.Tracer
	// Stepped is told of each step, Saved of each checkpoint; for metrics. They may be nil.
	Stepped func(context.Context, Step)
	Saved   func(ctx context.Context, took time.Duration)
}

func (o *Options) withDefaults() {
	if o.Interval == 0 {
		o.Interval = DefaultInterval
	}
	if o.Bytes == 0 {
		o.Bytes = DefaultBytes
	}
	if o.Outputs == nil {
		o.Outputs = []int{o.Lane}
	}
	if o.Stepped == nil {
		o.Stepped = func(context.Context, Step) {}
	}
	if o.Saved == nil {
		o.Saved = func(context.Context, time.Duration) {}
	}
}

// writer is the name of the lane's writer in the output log.
func (o *Options) writer() string { return strconv.Itoa(o.Lane) }

// lane is one lane of one pipeline, from the time that it is taken until it is given up.
type lane struct {
	Options
	core Core

	// Set by take; each is then owned by the goroutine named.
	state   *checkpoint.Lane  // keep
	writer  *fencedlog.Writer // publish
	letters Letters           // publish; nil when there are none
	purger  fencedlog.Purger  // keep
	refused position          // fixed by take: the last one in the dead-letter log
	told    string            // what take has found out about dead letters
	fold    *fold             // run
	// settled is the input message by which the fence that was found goes, fixed by take; none when the outputs go further.
	settled fencedlog.Mark
	// inherited: what belongs to it of the lanes before is in the state. closed: see Heir. Both are the fold's once that runs.
	inherited, closed bool
	// appended is the sequence of the lane's last message in the output log, and after its position, by which the next one says that it follows it; publish's
	// once that runs. after is nothing when there is none, "" when that is not known; it is kept of a Replayer only.
	appended uint64
	after    string
	// stored is the checkpoint that was found, fixed by take: it may be a later one than that which the lane goes on from.
	stored *eventv1.Manifest
}

// Run works until ctx ends, or until something fails that only a new start can mend. It closes the core. Four goroutines hand
// the work on: read → fold → publish → keep. Only the fold decides anything.
//
// Asked to stop, the fold makes a last checkpoint and ends the queue behind it, and each goroutine
// ends with its queue. A lane that is lost (lanes.ErrLost is the cause) ends at once, and so does one that fails.
func Run(ctx context.Context, core Core, options Options) (err error) {
	options.withDefaults()
	l := &lane{Options: options, core: core, purger: fencedlog.Purger{After: options.KeepInput}}
	defer func() {
		if closeErr := core.Close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("close the state of lane %d: %w", l.Lane, closeErr))
		}
	}()
	if err := l.take(ctx); err != nil {
		return unlessAsked(ctx, err)
	}
	if l.closed {
		return unlessAsked(ctx, l.rest(ctx))
	}
	l.Unit.Running()
	l.fold.report(l.Unit, 0)

	g, work := errgroup.WithContext(context.WithoutCancel(ctx))
	var (
		stopReading, stop = context.WithCancel(work)
		messages          = make(chan fencedlog.Message)
		outputs           = make(chan output, queue)
		saves             = make(chan *save, 1)
		saved             = make(chan *save, 1)
		finished          = make(chan struct{})
	)
	defer stop()
	g.Go(func() error { return l.read(stopReading, l.fold.covered, messages) })
	g.Go(func() error {
		defer stop()
		defer close(outputs)
		return l.foldAll(ctx, work, messages, outputs, saved)
	})
	g.Go(func() error {
		defer close(saves)
		return l.publish(work, outputs, saves)
	})
	g.Go(func() error {
		defer close(finished)
		return l.keep(work, saves, saved)
	})
	g.Go(func() error { return supervise(ctx, work, finished) })
	if err := g.Wait(); err != nil || !l.closed {
		return unlessAsked(ctx, err)
	}
	return unlessAsked(ctx, l.rest(ctx))
}

// unlessAsked drops an error that only says that ctx has ended.
func unlessAsked(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// supervise ends the work of a lane that is lost, or that takes too long to stop.
func supervise(ctx, work context.Context, finished <-chan struct{}) error {
	select {
	case <-work.Done():
		return nil
	case <-finished:
		return nil
	case <-ctx.Done():
	}
	if errors.Is(context.Cause(ctx), lanes.ErrLost) {
		return context.Cause(ctx)
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-work.Done():
	case <-finished:
	case <-t.C:
		return fmt.Errorf("not stopped within %v: %w", grace, context.Cause(ctx))
	}
	return nil
}
