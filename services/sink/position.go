package sink

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
)

const (
	positionFormat = 1
	// writeTimeout bounds one attempt to write a position; what is then unknown is found out by reading it.
	writeTimeout = 5 * time.Second
)

// errTaken says that another instance has the lane: its position was written by somebody else.
var errTaken = errors.New("another instance has taken the lane")

// position is a lane's SinkPosition in the state bucket. Owned by the lane's goroutine.
//
// Every write is compare-and-set on the revision of the one before: an instance that lost the lane cannot write
// any more, so it cannot begin a block either, since a block begins with a write.
type position struct {
	kv       jetstream.KeyValue
	key      string
	owner    string
	session  string // of this opening: no other writes it
	revision uint64
	stored   *eventv1.SinkPosition // as it is in the bucket
	pace     pace
	wait     func(error) // told why a write has to wait, and nil when it is through
}

// positionKey is the key of a lane's position in the state bucket.
func positionKey(lane int) string { return fmt.Sprintf("sink.%d.position", lane) }

// openPosition reads the lane's position and takes it for owner: from then on the one before is fenced off.
func openPosition(ctx context.Context, kv jetstream.KeyValue, lane int, owner string, pace pace, wait func(error)) (*position, error) {
	p := &position{kv: kv, key: positionKey(lane), owner: owner, session: rand.Text(), pace: pace, wait: wait}
	current, err := p.read(ctx)
	if err != nil {
		return nil, err
	}
	if current.GetFormat() > positionFormat {
		return nil, fmt.Errorf("position %s: format %d is of a newer version than this one, which knows %d", p.key, current.GetFormat(), positionFormat)
	}
	p.stored = current
	// A crash after this leaves the position as it was, under another owner's name.
	if err := p.write(ctx, proto.CloneOf(current)); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *position) read(ctx context.Context) (*eventv1.SinkPosition, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	out := &eventv1.SinkPosition{}
	entry, err := p.kv.Get(ctx, p.key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		p.revision = 0
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read position %s: %w", p.key, err)
	}
	if err := proto.Unmarshal(entry.Value(), out); err != nil {
		return nil, fmt.Errorf("read position %s: %w", p.key, err)
	}
	p.revision = entry.Revision()
	return out, nil
}

// write makes next the lane's position. It returns once it is durable, or with errTaken, or when ctx ends.
func (p *position) write(ctx context.Context, next *eventv1.SinkPosition) error {
	next.Format, next.Owner, next.Session = positionFormat, p.owner, p.session
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(next)
	if err != nil {
		return fmt.Errorf("write position %s: %w", p.key, err)
	}
	waited := false
	for backoff := p.pace.first; ; backoff = min(2*backoff, p.pace.last) {
		err := p.attempt(ctx, value)
		switch {
		case err == nil:
			p.stored = next
			if waited {
				p.wait(nil)
			}
			return nil
		case errors.Is(err, errTaken):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		waited = true
		p.wait(fmt.Errorf("write position %s: %w", p.key, err))
		if err := sleep(ctx, backoff); err != nil {
			return err
		}
	}
}

func (p *position) attempt(ctx context.Context, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	revision, err := p.kv.Update(ctx, p.key, value, p.revision) // revision 0: only if there is none
	if err == nil {
		p.revision = revision
		return nil
	}
	// Refused, or the answer got lost: what is there tells.
	entry, getErr := p.kv.Get(ctx, p.key)
	switch {
	case errors.Is(getErr, jetstream.ErrKeyNotFound):
		if p.revision != 0 {
			return fmt.Errorf("%w: position %s is gone from the state bucket", errTaken, p.key)
		}
		return err
	case getErr != nil:
		return errors.Join(err, getErr)
	case entry.Revision() == p.revision:
		return err
	}
	var there eventv1.SinkPosition
	if err := proto.Unmarshal(entry.Value(), &there); err != nil {
		return fmt.Errorf("%w: %w", errTaken, err)
	}
	if there.GetSession() != p.session {
		return fmt.Errorf("%w: position %s is at revision %d of instance %s, ours was %d", errTaken, p.key, entry.Revision(), there.GetOwner(), p.revision)
	}
	// A write of ours whose answer was lost, this one or one before.
	p.revision = entry.Revision()
	if bytes.Equal(entry.Value(), value) {
		return nil
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
