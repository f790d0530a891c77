package deadletters

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

const (
	// The notes are a ring of slots, each a key of the state bucket. The one in use is written anew with each message of letters.
	noteSlots    = 32
	rowsPerSlot  = 1000
	bytesPerSlot = 128 << 10 // before compression
	// maxNotedReason bounds what is kept of a reason.
	maxNotedReason = 300
	// noteTimeout bounds one attempt to write a slot.
	noteTimeout = 5 * time.Second
)

// NotesOf is what the keys of a lane's notes begin with.
func NotesOf(stage string, lane int) string { return stage + "." + strconv.Itoa(lane) + ".letters." }

// notes are the rows that were refused last.
type notes struct {
	values jetstream.KeyValue // nil: nothing is noted
	prefix string

	slots []slot // nil until they are loaded
	at    int    // in use
}

type slot struct {
	rows     []*eventv1.RefusedRow
	revision uint64
}

func (n *notes) key(slot int) string { return n.prefix + strconv.Itoa(slot) }

func (n *notes) load(ctx context.Context) error {
	if n.slots != nil {
		return nil
	}
	slots, at := make([]slot, noteSlots), 0
	for i := range slots {
		entry, err := n.values.Get(ctx, n.key(i))
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", n.key(i), err)
		}
		slots[i].revision = entry.Revision()
		if slots[i].rows, err = decodeRows(entry.Value()); err != nil {
			return fmt.Errorf("read %s: %w", n.key(i), err)
		}
		// Revisions rise with every write to the bucket: the slot that was written last is in use.
		if slots[i].revision > slots[at].revision {
			at = i
		}
	}
	n.slots, n.at = slots, at
	return nil
}

// between returns the rows with numbers above from, up to to, in order. Of two notes of a number the later one holds.
func (n *notes) between(ctx context.Context, from, to uint64) ([]*eventv1.RefusedRow, error) {
	if n.values == nil {
		return nil, nil
	}
	if err := n.load(ctx); err != nil {
		return nil, err
	}
	byNumber := map[uint64]*eventv1.RefusedRow{}
	for i := range noteSlots {
		for _, row := range n.slots[(n.at+1+i)%noteSlots].rows {
			if row.GetNumber() > from && row.GetNumber() <= to {
				byNumber[row.GetNumber()] = row
			}
		}
	}
	out := make([]*eventv1.RefusedRow, 0, len(byNumber))
	for _, row := range byNumber {
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b *eventv1.RefusedRow) int { return cmp.Compare(a.GetNumber(), b.GetNumber()) })
	return out, nil
}

// add notes rows. It returns once that is durable, or with fencedlog.ErrFenced when another has written the notes.
func (n *notes) add(ctx context.Context, rows []*eventv1.RefusedRow) error {
	if err := n.load(ctx); err != nil {
		return err
	}
	for len(rows) > 0 {
		in, size := n.slots[n.at].rows, 0
		for _, row := range in {
			size += proto.Size(row)
		}
		take := 0
		for take < len(rows) && len(in)+take < rowsPerSlot && size < bytesPerSlot {
			size += proto.Size(rows[take])
			take++
		}
		if take > 0 {
			if err := n.write(ctx, n.at, slices.Concat(in, rows[:take])); err != nil {
				return err
			}
			rows = rows[take:]
			continue
		}
		n.at = (n.at + 1) % noteSlots
		n.slots[n.at].rows = nil
	}
	return nil
}

// write writes a slot by compare-and-set.
func (n *notes) write(ctx context.Context, i int, rows []*eventv1.RefusedRow) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	value, err := encodeRows(rows)
	if err != nil {
		return err
	}
	revision, err := n.values.Update(ctx, n.key(i), value, n.slots[i].revision)
	if err != nil {
		entry, getErr := n.values.Get(ctx, n.key(i))
		switch {
		case errors.Is(getErr, jetstream.ErrKeyNotFound), getErr != nil, entry.Revision() == n.slots[i].revision:
			n.slots = nil // read again before the next attempt
			return fmt.Errorf("write %s: %w", n.key(i), err)
		case !bytes.Equal(entry.Value(), value):
			n.slots = nil
			return fmt.Errorf("write %s: %w", n.key(i), fencedlog.ErrFenced)
		}
		revision = entry.Revision() // the answer was lost
	}
	n.slots[i] = slot{rows, revision}
	return nil
}

func encodeRows(rows []*eventv1.RefusedRow) ([]byte, error) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&eventv1.RefusedRows{Rows: rows})
	if err != nil {
		return nil, fmt.Errorf("encode refused rows: %w", err)
	}
	return s2.Encode(nil, data), nil
}

func decodeRows(data []byte) ([]*eventv1.RefusedRow, error) {
	raw, err := s2.Decode(nil, data)
	if err != nil {
		return nil, err
	}
	var rows eventv1.RefusedRows
	if err := proto.Unmarshal(raw, &rows); err != nil {
		return nil, err
	}
	return rows.GetRows(), nil
}

// note notes the rows of a message that is appended next. It waits for NATS as long as it takes.
func (w *Writer) note(ctx context.Context, position string, done int, rows []*eventv1.RefusedRow) error {
	if w.notes.values == nil {
		return nil
	}
	for i, row := range rows {
		row.Number = w.last.GetCount() + uint64(i) + 1
		row.Position = positionAt(position, done-len(rows)+i+1)
	}
	waited := false
	for backoff := firstBackoff; ; backoff = min(2*backoff, lastBackoff) {
		err := w.notes.add(ctx, rows)
		switch {
		case err == nil:
			if waited {
				w.options.Wait(nil)
			}
			return nil
		case errors.Is(err, fencedlog.ErrFenced):
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		waited = true
		w.options.Wait(fmt.Errorf("note which rows are refused: %w", err))
		if err := sleep(ctx, backoff); err != nil {
			return err
		}
	}
}

func rowOf(r *Refusal, l *eventv1.DeadLetter) *eventv1.RefusedRow {
	reason := clean(r.Reason)
	if len(reason) > maxNotedReason {
		reason = clean(reason[:maxNotedReason]) + "…"
	}
	row := &eventv1.RefusedRow{
		Source: r.Source, Topic: l.GetTopic(), Partition: r.Partition, Offset: r.Offset, Field: l.GetField(), Reason: reason,
		SchemaRevision: r.SchemaRevision, RefusedMs: l.GetRefusedMs(),
	}
	if r.TopicID != [16]byte{} {
		row.TopicId = r.TopicID[:]
	}
	return row
}

func refusalOf(row *eventv1.RefusedRow) Refusal {
	r := Refusal{
		Source: row.GetSource(), Topic: row.GetTopic(), Partition: row.GetPartition(), Offset: row.GetOffset(), Field: row.GetField(),
		Reason: row.GetReason(), SchemaRevision: row.GetSchemaRevision(),
	}
	copy(r.TopicID[:], row.GetTopicId())
	return r
}
