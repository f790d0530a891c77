// Package fencedlog is the log between two stages: one JetStream stream, many writers, each of
// which is alone.
//
// It guarantees that what a writer appends is in the log once and in order, whatever is killed:
// the message itself carries the input position that it covers, so it is the commit; and every
// append asserts the writer's fence, so that a writer which another has replaced is refused by the
// server. Whenever the fate of an append is unknown, the fence is taken anew, the last message of
// the subject is read and compared, and only then does the writer go on. Recovery, take-over and
// retry are that one path.
//
// It does not guarantee that JetStream keeps what it acknowledged through a power loss: Verify
// tells when the tail of a log was lost.
package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Log names the log of one stage of a pipeline.
type Log struct {
	Pipeline string // id of the pipeline
	Stage    string // ingest, dedup, join, dlq
}

// Stages whose logs a pipeline may have.
const (
	Ingest      = "ingest"
	Dedup       = "dedup"
	Join        = "join"
	DeadLetters = "dlq"
)

// Stream is the name of the log's JetStream stream.
func (l Log) Stream() string { return "sluice_" + l.Pipeline + "_" + l.Stage }

// Subject is where a writer's messages for a lane go.
func (l Log) Subject(lane int, writer string) string {
	return l.prefix() + strconv.Itoa(lane) + "." + writer
}

// LaneFilter matches the messages of all writers for a lane.
func (l Log) LaneFilter(lane int) string { return l.prefix() + strconv.Itoa(lane) + ".*" }

// AllFilter matches everything in the log, fences too.
func (l Log) AllFilter() string { return l.prefix() + ">" }

// IngestWriter is the name of the ingest log's writer for a Kafka partition; source is "" in a pipeline without a join.
func IngestWriter(source string, partition int32) string {
	name := strconv.FormatInt(int64(partition), 10)
	if source != "" {
		name = source + "-" + name
	}
	return name
}

func (l Log) fence(writer string) string { return l.prefix() + "fence." + writer }

func (l Log) fenceFilter() string { return l.prefix() + "fence.*" }

func (l Log) prefix() string { return "sluice." + l.Pipeline + "." + l.Stage + "." }

// Limits bound a log. A full log refuses appends; its writers wait, and Kafka holds the rest.
type Limits struct {
	MaxBytes int64 // 0: no bound but the server's
	Replicas int   // 0: one
}

// Ensure makes the log's stream if it is not there, and brings its limits up to date.
func Ensure(ctx context.Context, js jetstream.JetStream, l Log, limits Limits) error {
	maxBytes := limits.MaxBytes
	if maxBytes <= 0 {
		maxBytes = -1
	}
	config := jetstream.StreamConfig{
		Name:        l.Stream(),
		Description: "log of stage " + l.Stage + " of pipeline " + l.Pipeline,
		Subjects:    []string{l.AllFilter()},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    maxBytes,
		Replicas:    max(1, limits.Replicas),
		// Reads that recover a writer must come from the leader: no direct gets.
		AllowDirect: false,
	}
	for {
		err := ensure(ctx, js, config)
		var api *jetstream.APIError
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errRemains):
		case errors.As(err, &api) && api.ErrorCode == codeStoreCreateFailed:
			// The server is still removing the files of a deleted stream of this name.
		default:
			return fmt.Errorf("make stream %s: %w", l.Stream(), err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("make stream %s: %w", l.Stream(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// errRemains says that a stream began with messages of a deleted one.
var errRemains = errors.New("the server has not yet removed the messages of a deleted stream of this name")

func ensure(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) error {
	_, err := js.UpdateStream(ctx, config)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	stream, err := js.CreateStream(ctx, config)
	if err != nil {
		return err
	}
	// The server moves a deleted stream's directory aside and empties it in the background. Deleted,
	// made, deleted and made again in short order, the second move fails, and the new stream takes
	// the directory over with all that is in it (seen with nats-server 2.15). Its writers would go on
	// from positions of another pipeline.
	info := stream.CachedInfo()
	if info.State.Msgs == 0 || !info.State.FirstTime.Before(info.Created) {
		return nil
	}
	if err := js.DeleteStream(ctx, config.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("%w, and: %w", errRemains, err)
	}
	return errRemains
}

// Remove removes the log's stream with all that is in it. It is no error when there is none.
func Remove(ctx context.Context, js jetstream.JetStream, l Log) error {
	err := js.DeleteStream(ctx, l.Stream())
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("remove stream %s: %w", l.Stream(), err)
	}
	return nil
}

// ErrTailLost says that a log no longer holds what a checkpoint has covered: JetStream lost its
// tail (a power loss, an older copy put back).
var ErrTailLost = errors.New("the log lost its tail")

// Verify checks that the log still holds what was covered: that it reaches to sequence, and that
// the message there, if it was not purged, is the one stored at the given server time, and what is left before it is older. Sequences
// are used again after a tail loss, so the number alone proves nothing.
func Verify(ctx context.Context, js jetstream.JetStream, l Log, sequence uint64, at time.Time) error {
	return VerifyAll(ctx, js, l, []Mark{{sequence, at}})
}

// VerifyAll is Verify for several messages.
func VerifyAll(ctx context.Context, js jetstream.JetStream, l Log, marks []Mark) error {
	marks = slices.DeleteFunc(slices.Clone(marks), func(m Mark) bool { return m.Sequence == 0 })
	if len(marks) == 0 {
		return nil
	}
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return fmt.Errorf("verify %s: %w", l.Stream(), err)
	}
	last := stream.CachedInfo().State.LastSeq // as of now: Stream asks for it
	for _, m := range marks {
		if last < m.Sequence {
			return fmt.Errorf("%w: %s ends at sequence %d, covered is %d", ErrTailLost, l.Stream(), last, m.Sequence)
		}
		msg, err := stream.GetMsg(ctx, m.Sequence)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			if msg, err = before(ctx, stream, m.Sequence); err == nil && msg != nil && msg.Time.After(m.Time) {
				return fmt.Errorf("%w: sequence %d of %s was stored at %s, covered is %d of %s before it",
					ErrTailLost, msg.Sequence, l.Stream(), msg.Time.UTC(), m.Sequence, m.Time.UTC())
			}
			if err == nil {
				continue
			}
		}
		if err != nil {
			return fmt.Errorf("verify %s: read sequence %d: %w", l.Stream(), m.Sequence, err)
		}
		if !msg.Time.Equal(m.Time) {
			return fmt.Errorf("%w: sequence %d of %s was stored at %s, covered was the one of %s", ErrTailLost, m.Sequence, l.Stream(), msg.Time.UTC(), m.Time.UTC())
		}
	}
	return nil
}

// lookBack is how many sequences before a message that is not there are looked at.
const lookBack = 64

// before is the message before one that is not there: which was purged, or is a fence that another has replaced, or is neither, since
// the log has lost its tail and what has the sequence now was a fence, too. nil: none is near. What precedes it was not stored after it.
func before(ctx context.Context, stream jetstream.Stream, sequence uint64) (*jetstream.RawStreamMsg, error) {
	first := stream.CachedInfo().State.FirstSeq
	for n := sequence - 1; n >= first && n > 0 && n+lookBack >= sequence; n-- {
		msg, err := stream.GetMsg(ctx, n)
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return msg, err
		}
	}
	return nil, nil //nolint:nilnil // none is an answer
}

// writerOf returns the writer of a subject of a lane.
func (l Log) writerOf(subject string) (writer string, ok bool) {
	rest, ok := strings.CutPrefix(subject, l.prefix())
	if !ok {
		return "", false
	}
	lane, writer, ok := strings.Cut(rest, ".")
	if !ok {
		return "", false
	}
	_, err := strconv.Atoi(lane)
	return writer, err == nil
}
