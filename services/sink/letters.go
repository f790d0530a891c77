package sink

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/deadletters"
	"sluice/services/sink/internal/block"
)

// letters writes the rows that a table refuses to the pipeline's dead-letter log. Owned by the lane's sender.
//
// They are placed by block and by row: a restart finds there how far the refused rows of a block are in the log,
// and does not send those rows to the table again.
type letters struct {
	js       jetstream.JetStream
	pipeline string
	options  deadletters.Options
	locator  *locator

	writer *deadletters.Writer // nil until the first row is refused
	last   letterPosition      // of the last Append
	// had is the lane's last letter as its position says, or is to say next; nil: there is none. Never changed in place.
	had *eventv1.LettersMark
}

// letterPosition is the place of refused rows: of the block [first, last], from order on.
type letterPosition struct {
	epoch       uint32 // of the block's sequences
	first, last uint64
	order       int
}

func (p letterPosition) String() string {
	text := fmt.Sprintf("%d-%d/%d", p.first, p.last, p.order)
	if p.epoch > 0 {
		text = fmt.Sprintf("%d:%s", p.epoch, text)
	}
	return text
}

func (p letterPosition) of(n block.Name) bool {
	return p.epoch == n.Epoch && p.first == n.First && p.last == n.Last
}

func parseLetterPosition(text string) (p letterPosition, err error) {
	if text == "" {
		return p, nil
	}
	if strings.Contains(text, ":") {
		_, err = fmt.Sscanf(text, "%d:%d-%d/%d", &p.epoch, &p.first, &p.last, &p.order)
	} else {
		_, err = fmt.Sscanf(text, "%d-%d/%d", &p.first, &p.last, &p.order)
	}
	if err != nil {
		return p, fmt.Errorf("position %q of a dead-letter message: %w", text, err)
	}
	return p, nil
}

// writerName is that of the lane in the dead-letter log.
func (d *letters) writerName() string { return stageName + "-" + strconv.Itoa(d.options.Lane) }

func (d *letters) open(ctx context.Context) error {
	if d.writer != nil {
		return nil
	}
	w, last, err := deadletters.Open(ctx, d.js, d.pipeline, d.writerName(), d.options)
	if err != nil {
		return err
	}
	if d.last, err = parseLetterPosition(last); err != nil {
		return err
	}
	d.writer = w
	return nil
}

// close lets go of what was opened. The dead letters can be used again.
func (d *letters) close() {
	d.locator.close()
	if d.writer != nil {
		d.writer.Close()
	}
}

// lastOf is the last row of the block, in the order in which it is sent, that the log has; -1: none. It fences off
// whoever wrote for the lane before.
func (d *letters) lastOf(ctx context.Context, name block.Name) (int, error) {
	if err := d.open(ctx); err != nil {
		return 0, err
	}
	if !d.last.of(name) {
		return -1, nil
	}
	return d.last.order + d.writer.In(d.last.String()) - 1, nil
}

// write writes refused rows of a block: one after the other in the order in which the block is sent. It returns once
// they are in the log.
func (d *letters) write(ctx context.Context, name block.Name, l *layout, refused []refusal) error {
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
	rows := make([]deadletters.Refusal, len(refused))
	for i, r := range refused {
		if rows[i], err = d.locator.find(ctx, name, r.group.BlockRow(r.row)); err != nil {
			return err
		}
		rows[i].Reason = r.reason
		rows[i].Row = func() ([]byte, error) {
			columns, err := r.group.slice(l, block.Range{From: r.row, To: r.row + 1})
			if err != nil {
				return nil, err
			}
			return clickhouse.RenderRow(columns)
		}
	}
	d.last = letterPosition{name.Epoch, name.First, name.Last, refused[0].order}
	// A crash in it finds in the log which row is the last, and goes on behind it.
	err = d.writer.Append(ctx, d.last.String(), rows)
	d.had = d.writer.Mark()
	return err
}
