package sink

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
	"sluice/services/sink/internal/block"
)

// deadLetters writes the rows that a table refuses to the pipeline's dead-letter log. Owned by the lane's sender.
//
// Its messages are placed by block and by row: a restart finds there how far the refused rows of a block are in the log,
// and does not send those rows to the table again.
type deadLetters struct {
	js         jetstream.JetStream
	log        fencedlog.Log // of dead letters
	lane       int
	maxPayload int64
	locator    *locator
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

// close lets go of what was opened. The dead letters can be used again.
func (d *deadLetters) close() error {
	d.locator.close()
	return d.originals.close()
}

// lastOf is the last row of the block, in the order in which it is sent, that the log has; -1: none. It fences off
// whoever wrote for the lane before.
func (d *deadLetters) lastOf(ctx context.Context, name block.Name) (int, error) {
	if err := d.open(ctx); err != nil {
		return 0, err
	}
	if d.last.first != name.First || d.last.last != name.Last {
		return -1, nil
	}
	return d.last.order, nil
}

// write writes refused rows of a block, which come in the order in which the block is sent. It returns once
// they are in the log.
func (d *deadLetters) write(ctx context.Context, name block.Name, l *layout, refused []refusal) error {
	last, err := d.lastOf(ctx, name)
	if err != nil {
		return err
	}
	for len(refused) > 0 && refused[0].order <= last {
		refused = refused[1:]
	}
	if len(refused) == 0 {
		return nil
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
	for i, r := range refused {
		letter, err := d.locator.find(ctx, name, r.group.BlockRow(r.row))
		if err != nil {
			return err
		}
		letter.Reason = r.reason
		if err := d.originals.fill(ctx, letter.DeadLetter, letter.topicID, r, l, d.room()); err != nil {
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

// clean makes text fit for a protobuf string: servers quote values as they are.
func clean(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
