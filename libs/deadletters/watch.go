package deadletters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// Watch looks whether a lane's last letter is still in the stream. Only a server that was away may come back with less than it had, so it looks
// when the connection was made anew. It is used by one goroutine.
type Watch struct {
	js          jetstream.JetStream
	pipeline    string
	connections uint64 // when the letters were last known to be there
}

// NewWatch takes the letters to be there now.
func NewWatch(js jetstream.JetStream, pipeline string) *Watch {
	return &Watch{js, pipeline, fencedlog.Connections(js)}
}

// There is asked every so often. It fails if the letter of the mark is gone: whoever takes the lane next makes the letters anew. What cannot be told within
// the time is looked for again by the next call.
func (w *Watch) There(ctx context.Context, last *eventv1.LettersMark, within time.Duration) error {
	if last == nil {
		return nil
	}
	return w.Look(ctx, within, func(ctx context.Context) error { return Lost(ctx, w.js, w.pipeline, last) })
}

// Look is There for who knows the last letter by other means: lost says by fencedlog.ErrTailLost that it is gone.
func (w *Watch) Look(ctx context.Context, within time.Duration, lost func(context.Context) error) error {
	now := fencedlog.Connections(w.js)
	if now == w.connections {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := lost(ctx)
	switch {
	case err == nil:
		w.connections = now
	case errors.Is(err, fencedlog.ErrTailLost):
		return fmt.Errorf("dead letters: %w", err)
	}
	return nil
}
