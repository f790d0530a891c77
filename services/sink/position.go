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
	// positionFormat is the newest format that this version knows: of a lane that looks for what a join puts out again, which earlier versions would take for new.
	// contentFormat is of a position with a block whose tokens tell its content, which earlier versions would send again under others. epochFormat is written once the log's sequences have begun anew, which a version that knows only plainFormat would not keep apart.
	positionFormat = 4
	contentFormat  = 3
	epochFormat    = 2
	plainFormat    = 1
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
	kv      jetstream.KeyValue
	key     string
	owner   string
	session string // of this opening: no other writes it
	uid     string // of the pipeline
	// generation of its record; notBehind tells why one that the position notes forbids to go on. Nil: nothing does.
	generation uint64
	notBehind  func(ctx context.Context, seen uint64) error
	revision   uint64
	stored     *eventv1.SinkPosition // as it is in the bucket
	pace       pace
	wait       func(error)  // told why a write has to wait, and nil when it is through
	rewound    func(string) // told that the bucket had lost its tail, and what was done
}

// positionKey is the key of a lane's position in the state bucket.
func positionKey(lane int) string { return fmt.Sprintf("sink.%d.position", lane) }

// open reads the lane's position and takes it for the owner: from then on the one before is fenced off.
func (p *position) open(ctx context.Context) error {
	p.session = rand.Text()
	current, err := p.read(ctx)
	if err != nil {
		return err
	}
	if current.GetFormat() > positionFormat {
		return fmt.Errorf("position %s: format %d is of a newer version than this one, which knows %d", p.key, current.GetFormat(), positionFormat)
	}
	p.stored = current
	if current.GetClosed() { // the lane is of a set that the pipeline has no more: nobody writes it again
		return nil
	}
	if p.notBehind != nil {
		if err := p.notBehind(ctx, current.GetGeneration()); err != nil {
			return err
		}
	}
	// A crash after this leaves the position as it was, under another owner's name.
	return p.write(ctx, proto.CloneOf(current))
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
	next.Format, next.Owner, next.Session, next.PipelineUid = plainFormat, p.owner, p.session, p.uid
	next.Generation = max(p.generation, next.GetGeneration())
	switch {
	case len(next.GetAgainOffsets()) > 0:
		next.Format = positionFormat
	case next.GetPending().GetContent() != 0:
		next.Format = contentFormat
	case next.GetEpoch() > 0:
		next.Format = epochFormat
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(next)
	if err != nil {
		return fmt.Errorf("write position %s: %w", p.key, err)
	}
	waited := false
	for backoff := p.pace.first; ; backoff = min(2*backoff, p.pace.last) {
		err := p.attempt(ctx, value, next)
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

func (p *position) attempt(ctx context.Context, value []byte, next *eventv1.SinkPosition) error {
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
	if entry.Revision() < p.revision && p.older(&there, next) {
		// Revisions only rise: the bucket has lost its tail, and what is there was put back. We know better.
		p.rewound(fmt.Sprintf("%s lost its tail: position %s was at revision %d and came back as of %d; it was written anew",
			p.kv.Bucket(), p.key, p.revision, entry.Revision()))
		p.revision = entry.Revision()
		return err
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

// older tells that what is there is of this lane, and from before next. What another instance has written since then is not.
func (p *position) older(there, next *eventv1.SinkPosition) bool {
	switch {
	case there.GetSession() == p.session:
		return true
	case there.GetPipelineUid() != p.uid || p.uid == "":
		return false
	case there.GetEpoch() != next.GetEpoch():
		return there.GetEpoch() < next.GetEpoch()
	}
	return there.GetCoveredSequence() < next.GetCoveredSequence()
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

// sleeping is sleep for who has nothing else to do.
func sleeping(ctx context.Context) func(time.Duration) error {
	return func(d time.Duration) error { return sleep(ctx, d) }
}
