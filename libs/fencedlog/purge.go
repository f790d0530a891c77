package fencedlog

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// pinnedMessages is how far a writer's old fence may hold back the purge of the others' messages
// before those are purged one writer at a time, which costs the server more.
const pinnedMessages = 256

// Purge removes what no reader needs any more: everything before the stream sequence keep. A
// writer's last fence stays, and so do its messages since it last settled: together they are its
// position. The last word of each witness stays, too.
func Purge(ctx context.Context, js jetstream.JetStream, l Log, keep uint64) error {
	return purge(ctx, js, l, keep, keep)
}

// purge keeps what is behind gentle, and only what is behind keep if the log fills up.
func purge(ctx context.Context, js jetstream.JetStream, l Log, keep, gentle uint64) error {
	if keep <= 1 {
		return nil
	}
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return fmt.Errorf("purge %s: %w", l.Stream(), err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(l.fenceFilter()))
	if err != nil {
		return fmt.Errorf("purge %s: list fences: %w", l.Stream(), err)
	}
	// A log that fills up cannot wait, neither for time to pass nor until it is worth the cost.
	filling := info.Config.MaxBytes > 0 && info.State.Bytes > uint64(info.Config.MaxBytes)/4
	if !filling {
		keep = gentle
	}
	if keep <= info.State.FirstSeq {
		return nil
	}
	settled := make(map[string]uint64, len(info.State.Subjects))
	oldest := keep
	fences, err := lastOfEach(ctx, stream, info)
	if err != nil {
		return fmt.Errorf("purge %s: read fences: %w", l.Stream(), err)
	}
	for _, msg := range fences {
		sequence, err := settledOf(msg)
		if err != nil {
			return fmt.Errorf("purge %s: %w", l.Stream(), err)
		}
		settled[strings.TrimPrefix(msg.Subject, l.fence(""))] = sequence
		oldest = min(oldest, sequence)
	}
	if oldest > info.State.FirstSeq {
		upTo, err := carry(ctx, js, stream, l, oldest)
		if err != nil {
			return fmt.Errorf("purge %s: keep what was said in it: %w", l.Stream(), err)
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSequence(upTo)); err != nil {
			return fmt.Errorf("purge %s below %d: %w", l.Stream(), upTo, err)
		}
	}
	if keep-oldest < pinnedMessages && !filling {
		return nil
	}
	for writer, sequence := range settled {
		upTo := min(keep, sequence)
		if upTo <= oldest {
			continue
		}
		// The filter matches the writer's fences, too, but all that lie before upTo are old ones.
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(l.prefix()+"*."+writer), jetstream.WithPurgeSequence(upTo)); err != nil {
			return fmt.Errorf("purge %s of writer %s below %d: %w", l.Stream(), writer, upTo, err)
		}
	}
	return nil
}

// lastOfEach is the last message of each subject that a stream was listed with, but for those that have none any more.
func lastOfEach(ctx context.Context, stream jetstream.Stream, info *jetstream.StreamInfo) (out []*jetstream.RawStreamMsg, err error) {
	for subject := range info.State.Subjects {
		msg, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", subject, err)
		}
		out = append(out, msg)
	}
	return out, nil
}

// Retire removes the fences of writers that append no more, so that no purge has to look at them. Whoever still believes to be one of them appends nothing any
// more: its fence is not there. The log's last message stays until another is behind it, so that the log ends where it did.
//
// As with Purge only what lies before the stream sequence keep is removed, or the log would begin behind what a reader wants next. done tells whether
// nothing was left for that reason.
func Retire(ctx context.Context, js jetstream.JetStream, l Log, writers []string, keep uint64) (done bool, err error) {
	stream, err := js.Stream(ctx, l.Stream())
	if err != nil {
		return false, fmt.Errorf("retire writers of %s: %w", l.Stream(), err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(l.fenceFilter()))
	if err != nil {
		return false, fmt.Errorf("retire writers of %s: list fences: %w", l.Stream(), err)
	}
	done = true
	for _, writer := range writers {
		subject := l.fence(writer)
		if info.State.Subjects[subject] == 0 {
			continue
		}
		msg, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("retire writer %s of %s: read its fence: %w", writer, l.Stream(), err)
		}
		if msg.Sequence >= info.State.LastSeq {
			continue
		}
		if msg.Sequence >= keep {
			done = false
			continue
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return false, fmt.Errorf("retire writer %s of %s: %w", writer, l.Stream(), err)
		}
	}
	return done, nil
}
