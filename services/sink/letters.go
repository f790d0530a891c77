package sink

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/fencedlog"
	"sluice/services/sink/internal/block"
)

// deadLetters writes the rows that a table refuses to the pipeline's dead-letter log. Owned by the lane's sender.
//
// Its messages are placed by block and by row: when a block is sent again after a restart, the rows that
// are in the log already are left out. That holds as long as the table refuses the same rows again.
type deadLetters struct {
	js         jetstream.JetStream
	log        fencedlog.Log // of dead letters
	upstream   fencedlog.Log
	lane       int
	maxPayload int64
	originals  *originals
	waiting    func(error)

	writer *fencedlog.Writer // nil until the first row is refused
	last   letterPosition    // of the last message in the log
}

// letterPosition is the place of a dead-letter message: all refused rows of the block [first, last] up to order are in.
type letterPosition struct {
	first, last uint64
	order       int
}

func (p letterPosition) String() string { return fmt.Sprintf("%d-%d/%d", p.first, p.last, p.order) }

func parseLetterPosition(text string) (p letterPosition, err error) {
	if text == "" {
		return p, nil
	}
	if _, err := fmt.Sscanf(text, "%d-%d/%d", &p.first, &p.last, &p.order); err != nil {
		return p, fmt.Errorf("position %q of a dead-letter message: %w", text, err)
	}
	return p, nil
}

func (d *deadLetters) open(ctx context.Context) error {
	if d.writer != nil {
		return nil
	}
	w, recovered, err := fencedlog.Open(ctx, d.js, d.log, "sink-"+strconv.Itoa(d.lane), fencedlog.Options{
		Lanes: []int{d.lane}, Wait: d.waiting,
	})
	if err != nil {
		return err
	}
	if d.last, err = parseLetterPosition(recovered.Last[d.lane].Position); err != nil {
		return err
	}
	d.writer = w
	return nil
}

func (d *deadLetters) close() error { return d.originals.close() }

// write writes the refused rows of a block, which come in the order in which the block is sent. It returns once
// they are in the log.
func (d *deadLetters) write(ctx context.Context, name block.Name, l *layout, refused []refusal) error {
	if err := d.open(ctx); err != nil {
		return err
	}
	if d.last.first == name.First && d.last.last == name.Last {
		for len(refused) > 0 && refused[0].order <= d.last.order {
			refused = refused[1:]
		}
	}
	if len(refused) == 0 {
		return nil
	}
	letters, err := d.locate(ctx, name, l.revision, refused)
	if err != nil {
		return err
	}
	var message eventv1.DeadLetterBatch
	size := 0
	send := func(upTo int) error {
		data, err := proto.Marshal(&message)
		if err != nil {
			return fmt.Errorf("encode dead letters: %w", err)
		}
		at := letterPosition{name.First, name.Last, refused[upTo].order}
		// A crash after this finds the position in the log and goes on behind it.
		if _, err := d.writer.Append(ctx, d.lane, at.String(), data); err != nil {
			return err
		}
		d.last, size = at, 0
		message.Letters = nil
		return nil
	}
	for i, letter := range letters {
		if err := d.originals.fill(ctx, letter.DeadLetter, letter.topicID, refused[i], l, d.room()); err != nil {
			return err
		}
		n := proto.Size(letter.DeadLetter) + 16
		if size > 0 && size+n > d.room() {
			if err := send(i - 1); err != nil {
				return err
			}
		}
		message.Letters = append(message.Letters, letter.DeadLetter)
		size += n
	}
	return send(len(refused) - 1)
}

// room is how many bytes of letters fit into a message, with its headers.
func (d *deadLetters) room() int { return int(d.maxPayload) - 16<<10 }

// located is a dead letter whose original is still to be fetched.
type located struct {
	*eventv1.DeadLetter
	topicID []byte
}

// locate finds in Kafka's terms which events the refused rows are, by reading the block's messages again: to keep the
// coordinates of all rows of all blocks, for the few that are refused, would cost more.
func (d *deadLetters) locate(ctx context.Context, name block.Name, revision uint64, refused []refusal) ([]located, error) {
	byRow := make([]int, len(refused)) // indexes of refused, in the order of the block's rows
	for i := range byRow {
		byRow[i] = i
	}
	blockRow := func(i int) int { return refused[i].group.BlockRow(refused[i].row) }
	slices.SortFunc(byRow, func(a, b int) int { return cmp.Compare(blockRow(a), blockRow(b)) })

	reader, err := fencedlog.OpenReader(ctx, d.js, d.upstream, d.lane, name.First)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	out := make([]located, len(refused))
	var view batch.View
	before := 0 // rows of the messages before
	for len(byRow) > 0 {
		msg, err := reader.Next(ctx)
		if err != nil {
			return nil, err
		}
		if msg.Sequence > name.Last {
			return nil, fmt.Errorf("messages %d to %d of %s do not hold the refused rows any more", name.First, name.Last, d.upstream.Stream())
		}
		if err := view.Parse(msg.Data); err != nil {
			return nil, fmt.Errorf("message %d of %s: %w", msg.Sequence, d.upstream.Stream(), err)
		}
		row := 0
		for nth := before; nth < before+view.Selected && len(byRow) > 0; row++ {
			if !view.Selects(row) {
				continue
			}
			if i := byRow[0]; blockRow(i) == nth {
				out[i] = located{&eventv1.DeadLetter{
					Topic: string(view.Topic), Partition: view.Partition, Offset: view.Offset(row),
					Stage: stageName, Reason: refused[i].reason, RefusedMs: time.Now().UnixMilli(), SchemaRevision: revision,
				}, slices.Clone(view.TopicID)}
				byRow = byRow[1:]
			}
			nth++
		}
		before += view.Selected
	}
	return out, nil
}

// clean makes text fit for a protobuf string: servers quote values as they are.
func clean(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
