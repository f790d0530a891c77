package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	// positionHeader carries the input position that a message covers.
	positionHeader = "Sluice-Position"
	// sessionHeader tells whose fence it is: one value for each Open.
	sessionHeader = "Sluice-Session"
	// inputHeader is on a fence whose body goes by a message of another log, and on a message with a Link: <sequence>@<nanoseconds since 1970>.
	inputHeader = "Sluice-Input"
	// afterHeader is on a message with a Link: the position of the one before it.
	afterHeader = "Sluice-After"
	// settledHeader is on a fence that carries on what an earlier one had settled: the sequence
	// of that one. A fence without it settles by itself.
	settledHeader = "Sluice-Settled"
	// attemptTimeout bounds one request; what is then unknown is found out by recovery.
	attemptTimeout = 5 * time.Second
	firstBackoff   = 20 * time.Millisecond
	lastBackoff    = 2 * time.Second
)

// ErrFenced says that another has become the writer. The writer is of no further use.
var ErrFenced = errors.New("fenced: another instance is the writer now")

// Options of a writer.
type Options struct {
	// Lanes that the writer appends to; their last messages are read when it opens.
	Lanes []int
	// Wait is told each time that an append has to be repeated, and nil when it went through
	// after that. May be nil.
	Wait func(error)
}

// Last is the last message of a writer in a lane.
type Last struct {
	Sequence uint64
	Time     time.Time
	Position string
	Data     []byte
}

// Recovered is what the log says of a writer's past.
type Recovered struct {
	// Body of the writer's last fence: the positions that were settled then; nil for a new writer.
	Body []byte
	// Input is what SettleOf has noted with it; Sequence 0: nothing.
	Input Mark
	// Last message by lane. A lane without one has none since the log was last purged, which is
	// never later than the fence.
	Last map[int]Last
}

// Writer appends to a log as one deterministic producer. Its methods may be called concurrently,
// but each lane by one goroutine at a time: with a single append in flight per lane, the last
// message is either that append or the one before it.
type Writer struct {
	js      jetstream.JetStream
	log     Log
	name    string
	session string
	wait    func(error)

	unsettled atomic.Int64 // bytes appended since the last Settle

	mu       sync.Mutex
	held     fence        // guarded by mu; our last fence
	lost     bool         // guarded by mu; another took the fence, or the log lost what we had appended
	newest   map[int]sent // guarded by mu; our last message by lane
	conn     uint64       // guarded by mu; how often the connection had been made anew when all that was last known to be there
	maxBytes int64        // fixed by Open; limit of the log, 0 without
}

// Open becomes the writer of that name and fences off the one before. It waits while JetStream or
// the stream is not there, until ctx ends.
func Open(ctx context.Context, js jetstream.JetStream, log Log, writer string, opts Options) (*Writer, Recovered, error) {
	w := &Writer{js: js, log: log, name: writer, session: nuid.Next(), wait: opts.Wait, newest: map[int]sent{}}
	if w.wait == nil {
		w.wait = func(error) {}
	}
	var rec Recovered
	err := w.retry(ctx, func(ctx context.Context) error {
		// A crash after this leaves a fence that nobody holds: the next one to open replaces it.
		held, err := w.inherit(ctx)
		if err != nil {
			return fmt.Errorf("take the fence of %s in %s: %w", writer, log.Stream(), err)
		}
		conn := Connections(w.js)
		w.mu.Lock()
		w.held, w.conn = held, conn
		w.mu.Unlock()
		// Only now: whatever the writer before us had in flight is either in or refused.
		rec = Recovered{Body: held.body, Input: held.of, Last: make(map[int]Last, len(opts.Lanes))}
		for _, lane := range opts.Lanes {
			last, err := w.last(ctx, lane)
			if err != nil {
				return err
			}
			if last.Sequence != 0 {
				rec.Last[lane] = last
				w.note(lane, last.Sequence, last.Position)
			}
		}
		return nil
	})
	if err != nil {
		return nil, Recovered{}, err
	}
	return w, rec, nil
}

// Link says where a message belongs: which message of the log before its writer has made it of, and which of the writer's own it follows in its lane. A
// reader that has had another one last knows by it that the log is not the one that it has read.
type Link struct {
	Input Mark   // Sequence 0: the message says nothing of all this
	After string // position of the writer's message before this one; "": not known
}

// Append appends a message that covers the input up to position and returns its sequence. It
// returns once the message is in the log, however long JetStream is away, or with ErrFenced, or
// when ctx ends; then the fate of the message is unknown and the next Open will tell.
func (w *Writer) Append(ctx context.Context, lane int, position string, data []byte) (uint64, error) {
	return w.AppendLinked(ctx, lane, position, Link{}, data)
}

// AppendLinked is Append of a message that says where it belongs.
func (w *Writer) AppendLinked(ctx context.Context, lane int, position string, link Link, data []byte) (uint64, error) {
	msg := nats.NewMsg(w.log.Subject(lane, w.name))
	msg.Data = data
	msg.Header.Set(positionHeader, position)
	link.write(msg.Header)
	var (
		appended uint64
		suspect  uint64 // fence of an attempt whose fate is unknown
		unknown  bool
	)
	err := w.retry(ctx, func(ctx context.Context) error {
		if unknown {
			// Whoever of our goroutines comes first takes the fence anew; from then on a late
			// copy of the message cannot get in, and the lane's last message tells.
			if err := w.retake(ctx, suspect); err != nil {
				return err
			}
			last, err := w.last(ctx, lane)
			if err != nil {
				return err
			}
			if last.Position == position {
				appended = last.Sequence
				w.note(lane, last.Sequence, position)
				return nil
			}
			unknown = false
		}
		fence, err := w.current()
		if err != nil {
			return err
		}
		if err := w.check(ctx); err != nil {
			return err
		}
		ack, err := w.publish(ctx, msg, fence, w.log.fence(w.name))
		if err != nil {
			unknown, suspect = !refusedForNow(err), fence
			return err
		}
		unknown, suspect = true, fence // until it is known that all before it is there
		if err := w.follows(ctx, lane, ack.Sequence); err != nil {
			return err
		}
		appended = ack.Sequence
		w.note(lane, ack.Sequence, position)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("append to lane %d of %s: %w", lane, w.log.Stream(), err)
	}
	w.unsettled.Add(int64(len(data)))
	return appended, nil
}

func (l Link) write(h nats.Header) {
	if l.Input.Sequence == 0 {
		return
	}
	h.Set(inputHeader, l.Input.String())
	if l.After != "" {
		h.Set(afterHeader, l.After)
	}
}

func linkOf(h nats.Header) Link {
	if h.Get(inputHeader) == "" {
		return Link{}
	}
	return Link{Input: markOf(h), After: h.Get(afterHeader)}
}

// Unsettled is how many bytes were appended since the last Settle. They cannot be purged: settle
// every few megabytes, or a log with a limit fills up with what nobody needs.
func (w *Writer) Unsettled() int64 { return w.unsettled.Load() }

// MaxBytes is the limit of the log as of Open; 0 when there is none. All writers of a log together
// must keep what they have not settled well below it: a full log frees nothing that is unsettled.
func (w *Writer) MaxBytes() int64 { return w.maxBytes }

// Settle writes body into a new fence of this writer: the positions up to which everything is in
// the log. What lies before the fence may then be purged; so no append may be in flight. Like Append
// it returns only when it is done, or fenced, or ctx ends.
func (w *Writer) Settle(ctx context.Context, body []byte) error {
	return w.SettleOf(ctx, body, Mark{})
}

// SettleOf is Settle for a body that is a place in another log: input is the message there, by which a later opening can tell
// whether that log is still the one that it was.
func (w *Writer) SettleOf(ctx context.Context, body []byte, input Mark) error {
	err := w.retry(ctx, func(ctx context.Context) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.renew(ctx, fence{body: body, of: input})
	})
	if err != nil {
		return fmt.Errorf("settle %s in %s: %w", w.name, w.log.Stream(), err)
	}
	w.unsettled.Store(0)
	return nil
}

func (w *Writer) publish(ctx context.Context, msg *nats.Msg, fence uint64, fenceSubject string) (*jetstream.PubAck, error) {
	// No retries by the client: they could reorder, and we must know of every lost answer.
	return w.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0),
		jetstream.WithExpectLastSequenceForSubject(fence, fenceSubject))
}

func (w *Writer) last(ctx context.Context, lane int) (Last, error) {
	stream, err := w.js.Stream(ctx, w.log.Stream())
	if err != nil {
		return Last{}, err
	}
	msg, err := stream.GetLastMsgForSubject(ctx, w.log.Subject(lane, w.name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Last{}, nil
	}
	if err != nil {
		return Last{}, fmt.Errorf("read the last message of %s: %w", w.log.Subject(lane, w.name), err)
	}
	return Last{Sequence: msg.Sequence, Time: msg.Time, Position: msg.Header.Get(positionHeader), Data: msg.Data}, nil
}

// LastMessage returns a writer's last message in a lane, without becoming the writer; its sequence is 0 when there is none.
func LastMessage(ctx context.Context, js jetstream.JetStream, log Log, lane int, writer string) (Last, error) {
	return (&Writer{js: js, log: log, name: writer}).last(ctx, lane)
}

// LastPosition returns the position of a writer's last message in a lane, without becoming the
// writer; "" when there is none.
func LastPosition(ctx context.Context, js jetstream.JetStream, log Log, lane int, writer string) (string, error) {
	last, err := (&Writer{js: js, log: log, name: writer}).last(ctx, lane)
	return last.Position, err
}
