package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/fencedlog"
)

// Tap listens to the logs and to the sinks' positions while they are there, to explain a failure afterwards. It is a
// reader like any other and best effort: what is purged while NATS is away it does not see.
type Tap struct {
	nc *nats.Conn
	js jetstream.JetStream

	mu       sync.Mutex
	messages map[string][]tapped // guarded by mu: by stage, in the log's order
	blocks   []string            // guarded by mu: sinks' positions, as they were written
	gaps     []string            // guarded by mu: what was not seen
}

// tapped is what is kept of a message.
type tapped struct {
	sequence  uint64
	stored    time.Time
	lane      string
	writer    string
	position  string
	input     uint64
	partition int32
	first     int64
	rows      []byte // varints: offset since the row before, times two, plus one when the row is selected
}

func newTap(addr string) (*Tap, error) {
	nc, err := nats.Connect("nats://"+addr, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("listen to the logs: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("listen to the logs: %w", err)
	}
	return &Tap{nc: nc, js: js, messages: map[string][]tapped{}}, nil
}

// Run listens until ctx ends.
func (t *Tap) Run(ctx context.Context, pipeline string) {
	defer t.nc.Close()
	var all sync.WaitGroup
	for _, stage := range []string{fencedlog.Ingest, fencedlog.Dedup} {
		log := fencedlog.Log{Pipeline: pipeline, Stage: stage}
		all.Go(func() {
			var view batch.View
			t.follow(ctx, log.Stream(), log.AllFilter(), func(m jetstream.Msg, meta *jetstream.MsgMetadata) {
				t.message(stage, &view, m, meta)
			})
		})
	}
	all.Go(func() {
		bucket := checkpoint.Bucket(pipeline)
		t.follow(ctx, "KV_"+bucket, "$KV."+bucket+".sink.*.position", t.position)
	})
	all.Wait()
}

// follow reads a stream from its beginning, over restarts of NATS.
func (t *Tap) follow(ctx context.Context, stream, filter string, see func(jetstream.Msg, *jetstream.MsgMetadata)) {
	var last uint64
	for ctx.Err() == nil {
		err := t.read(ctx, stream, filter, &last, see)
		if ctx.Err() == nil && err != nil {
			_ = wait(ctx, 100*time.Millisecond) // ctx is looked at above
		}
	}
}

func (t *Tap) read(ctx context.Context, stream, filter string, last *uint64, see func(jetstream.Msg, *jetstream.MsgMetadata)) error {
	attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
	consumer, err := t.js.OrderedConsumer(attempt, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{filter}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: *last + 1,
	})
	cancel()
	if err != nil {
		return err
	}
	iter, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(128, 8<<20), jetstream.PullHeartbeat(time.Second),
		jetstream.PullExpiry(5*time.Second))
	if err != nil {
		return err
	}
	defer iter.Stop()
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream <= *last {
			t.gap("%s: sequence %d came after %d", stream, meta.Sequence.Stream, *last)
		}
		*last = meta.Sequence.Stream
		see(m, meta)
	}
}

func (t *Tap) gap(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gaps = append(t.gaps, fmt.Sprintf(format, args...))
}

func (t *Tap) message(stage string, v *batch.View, m jetstream.Msg, meta *jetstream.MsgMetadata) {
	at := strings.Split(m.Subject(), ".") // sluice.<id>.<stage>.<lane>.<writer>
	if len(at) != 5 || at[3] == "fence" {
		return
	}
	if err := v.Parse(m.Data()); err != nil {
		t.gap("%s: sequence %d: %v", stage, meta.Sequence.Stream, err)
		return
	}
	x := tapped{
		sequence: meta.Sequence.Stream, stored: meta.Timestamp, lane: at[3], writer: at[4],
		position: fmt.Sprint(m.Headers().Get("Sluice-Position")), input: v.InputSequence,
		partition: v.Partition, first: v.FirstOffset,
	}
	before := v.FirstOffset
	for row := range v.Rows {
		offset := v.Offset(row)
		code := uint64(offset-before) << 1
		if v.Selects(row) {
			code |= 1
		}
		x.rows = binary.AppendUvarint(x.rows, code)
		before = offset
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.messages[stage] = append(t.messages[stage], x)
}

func (t *Tap) position(m jetstream.Msg, meta *jetstream.MsgMetadata) {
	var p eventv1.SinkPosition
	if err := proto.Unmarshal(m.Data(), &p); err != nil {
		t.gap("sink position: %v", err)
		return
	}
	text := fmt.Sprintf("%s %s revision %d: covered %d, %d rows, owner %s", meta.Timestamp.Format(clock),
		m.Subject(), meta.Sequence.Stream, p.GetCoveredSequence(), p.GetTally().GetRows(), p.GetOwner())
	if b := p.GetPending(); b != nil {
		text += fmt.Sprintf(", sending %d-%d of %d rows", b.GetFirstSequence(), b.GetLastSequence(), b.GetRows())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blocks = append(t.blocks, text)
}

const clock = "15:04:05.000"

// Path tells where a record of Kafka was seen.
func (t *Tap) Path(partition int32, offset int64) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, stage := range []string{fencedlog.Ingest, fencedlog.Dedup} {
		for _, m := range t.messages[stage] {
			row, selected := m.find(partition, offset)
			if row < 0 {
				continue
			}
			out = append(out, fmt.Sprintf("%s log: %s sequence %d, lane %s, writer %s, position %s, input %d: row %d, selected %t",
				stage, m.stored.Format(clock), m.sequence, m.lane, m.writer, m.position, m.input, row, selected))
			if stage != fencedlog.Dedup {
				continue
			}
			subject := ".sink." + m.lane + ".position"
			for _, b := range t.blocks {
				if strings.Contains(b, subject) && covers(b, m.sequence) {
					out = append(out, "  sink: "+b)
				}
			}
		}
	}
	if len(out) == 0 {
		out = append(out, "seen in no log")
	}
	return out
}

// find returns the row of an offset in the message, or -1.
func (m tapped) find(partition int32, offset int64) (row int, selected bool) {
	if m.partition != partition || offset < m.first {
		return -1, false
	}
	at, rest := m.first, m.rows
	for row := 0; len(rest) > 0; row++ {
		code, n := binary.Uvarint(rest)
		rest = rest[n:]
		if at += int64(code >> 1); at == offset {
			return row, code&1 != 0
		}
		if at > offset {
			break
		}
	}
	return -1, false
}

// covers tells whether the block that a position names holds a sequence.
func covers(position string, sequence uint64) bool {
	_, block, ok := strings.Cut(position, "sending ")
	var first, last uint64
	if n, _ := fmt.Sscanf(block, "%d-%d", &first, &last); !ok || n != 2 {
		return false
	}
	return first <= sequence && sequence <= last
}

// Gaps tells what was not seen.
func (t *Tap) Gaps() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.gaps...)
}
