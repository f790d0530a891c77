package fencedlog

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// A log may lose its tail under a writer that goes on, and with it what the writer has appended, while its fence is still there. What
// it appended next would follow a hole. So a writer looks whether its last messages are there whenever the connection was made anew, which
// it was if the server was restarted; and it notices when sequences are given out again. Then it is of no further use: who opens it anew
// finds where the log ends.

// sent is a message that is in the log.
type sent struct {
	sequence uint64
	position string
}

// Connections is how often the connection to NATS was made anew.
func Connections(js jetstream.JetStream) uint64 {
	if conn := js.Conn(); conn != nil {
		return conn.Stats().Reconnects
	}
	return 0
}

// note notes a lane's last message.
func (w *Writer) note(lane int, sequence uint64, position string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.newest[lane] = sent{sequence, position}
}

// check makes sure that what was appended is there, if there is reason to doubt it.
func (w *Writer) check(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.intact(ctx)
}

// follows makes sure that a message that was just appended follows the one before it.
func (w *Writer) follows(ctx context.Context, lane int, sequence uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if sequence <= w.newest[lane].sequence {
		return w.lose("sequences are given out again")
	}
	return w.intact(ctx)
}

// intact is check with mu held. What lies before the fence is there if the fence is: a tail is lost from some message on.
func (w *Writer) intact(ctx context.Context) error {
	conn := Connections(w.js)
	if conn == w.conn {
		return nil
	}
	stream, err := w.js.Stream(ctx, w.log.Stream())
	if err != nil {
		return err
	}
	msg, err := stream.GetLastMsgForSubject(ctx, w.log.fence(w.name))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		// Or the writer's lane is retired.
		w.lost = true
		return fmt.Errorf("%w: the fence is gone from the log", ErrFenced)
	case err != nil:
		return err
	case msg.Sequence < w.held.sequence:
		return w.lose("a later fence is gone")
	}
	for lane, last := range w.newest {
		if last.sequence < w.held.sequence {
			continue
		}
		msg, err := stream.GetMsg(ctx, last.sequence)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
		if err != nil || msg.Subject != w.log.Subject(lane, w.name) || msg.Header.Get(positionHeader) != last.position {
			return w.lose(fmt.Sprintf("sequence %d is gone", last.sequence))
		}
	}
	w.conn = conn
	return nil
}

// lose gives the writer up. Called with mu held.
func (w *Writer) lose(what string) error {
	w.lost = true
	return fmt.Errorf("%w: the log lost its tail: %s", ErrFenced, what)
}
