package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fence is a fence message as its writer knows it.
type fence struct {
	sequence uint64
	// settled is the sequence of the fence that settled body. It is what purges go by, not sequence:
	// a fence is also taken anew to find out what became of an append, and until that is found out
	// the append must not be purged, or it would look as if it had never arrived.
	settled uint64
	body    []byte
	of      Mark // see SettleOf
}

func (w *Writer) current() (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost {
		return 0, ErrFenced
	}
	return w.held.sequence, nil
}

// retake takes the fence anew unless it was since the caller read it.
func (w *Writer) retake(ctx context.Context, seen uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.lost && w.held.sequence != seen {
		return nil
	}
	return w.renew(ctx, fence{body: w.held.body, settled: w.held.settled, of: w.held.of})
}

// inherit takes the fence from whoever has it and carries on what that one had settled.
func (w *Writer) inherit(ctx context.Context) (fence, error) {
	stream, err := w.js.Stream(ctx, w.log.Stream())
	if err != nil {
		return fence{}, err
	}
	w.maxBytes = max(0, stream.CachedInfo().Config.MaxBytes)
	msg, err := stream.GetLastMsgForSubject(ctx, w.log.fence(w.name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return w.claim(ctx, 0, fence{}) // nothing of this writer lies before it, so it settles
	}
	if err != nil {
		return fence{}, err
	}
	settled, err := settledOf(msg)
	if err != nil {
		return fence{}, err
	}
	return w.claim(ctx, msg.Sequence, fence{body: msg.Data, settled: settled, of: markOf(msg.Header)})
}

// renew puts next in the place of our last fence. If the last one in the log is not ours, we were
// replaced. Called with mu held.
func (w *Writer) renew(ctx context.Context, next fence) error {
	if w.lost {
		return ErrFenced
	}
	stream, err := w.js.Stream(ctx, w.log.Stream())
	if err != nil {
		return err
	}
	// Not the one that we remember: the answer to our last attempt may have been lost.
	msg, err := stream.GetLastMsgForSubject(ctx, w.log.fence(w.name))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		// Our own fence is gone: the log lost its tail, and whoever starts over goes on from what it still holds. Or our lane is retired.
		w.lost = true
		return fmt.Errorf("%w: the fence is gone from the log", ErrFenced)
	case err != nil:
		return err
	case msg.Header.Get(sessionHeader) != w.session:
		w.lost = true
		return ErrFenced
	}
	if msg.Sequence < w.held.sequence {
		return w.lose("a later fence is gone")
	}
	if err := w.intact(ctx); err != nil {
		return err
	}
	held, err := w.claim(ctx, msg.Sequence, next)
	if err != nil {
		return err
	}
	for _, last := range w.newest {
		if held.sequence <= last.sequence {
			return w.lose("sequences are given out again")
		}
	}
	w.held = held
	return nil
}

// claim publishes a fence after the one at sequence before. After an error the fence may be there
// nevertheless: the next attempt reads what is.
func (w *Writer) claim(ctx context.Context, before uint64, next fence) (fence, error) {
	subject := w.log.fence(w.name)
	msg := nats.NewMsg(subject)
	msg.Data = next.body
	msg.Header.Set(sessionHeader, w.session)
	if next.settled != 0 {
		msg.Header.Set(settledHeader, strconv.FormatUint(next.settled, 10))
	}
	if next.of.Sequence != 0 {
		msg.Header.Set(inputHeader, next.of.String())
	}
	ack, err := w.publish(ctx, msg, before, subject)
	if err != nil {
		return fence{}, err
	}
	next.sequence = ack.Sequence
	if next.settled == 0 {
		next.settled = ack.Sequence
	}
	return next, nil
}

// settledOf is the sequence before which nothing of the writer of this fence is needed.
func settledOf(msg *jetstream.RawStreamMsg) (uint64, error) {
	text := msg.Header.Get(settledHeader)
	if text == "" {
		return msg.Sequence, nil
	}
	sequence, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("fence at sequence %d: header %s: %w", msg.Sequence, settledHeader, err)
	}
	return sequence, nil
}

// String is the mark as inputHeader has it.
func (m Mark) String() string { return fmt.Sprintf("%d@%d", m.Sequence, m.Time.UnixNano()) }

// markOf is the message of another log that the body of a fence goes by, or that a message was made of; none if it does not say so.
func markOf(h nats.Header) (m Mark) {
	sequence, at, _ := strings.Cut(h.Get(inputHeader), "@")
	n, err := strconv.ParseUint(sequence, 10, 64)
	ns, err2 := strconv.ParseInt(at, 10, 64)
	if err != nil || err2 != nil {
		return Mark{}
	}
	return Mark{Sequence: n, Time: time.Unix(0, ns)}
}
