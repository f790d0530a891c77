package main

import (
	"bytes"
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
	logs []string
	nc   *nats.Conn
	js   jetstream.JetStream

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
	source    string // of a join
	partition int32
	first     int64
	origins   []byte // of what a join has put out; then there are no rows
	rows      []byte // varints: offset since the row before, times two, plus one when the row is selected
}

func newTap(addr string, stages []string) (*Tap, error) {
	nc, err := nats.Connect("nats://"+addr, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("listen to the logs: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("listen to the logs: %w", err)
	}
	return &Tap{logs: logsOf(stages), nc: nc, js: js, messages: map[string][]tapped{}}, nil
}

// Run listens until ctx ends.
func (t *Tap) Run(ctx context.Context, pipeline string) {
	defer t.nc.Close()
	var all sync.WaitGroup
	for _, stage := range t.logs {
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
		source: string(v.Source), partition: v.Partition, first: v.FirstOffset,
	}
	if len(v.Origins) > 0 {
		x.origins = bytes.Clone(v.Origins)
		t.keep(stage, x)
		return
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
	t.keep(stage, x)
}

func (t *Tap) keep(stage string, x tapped) {
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

// Gaps tells what was not seen.
func (t *Tap) Gaps() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.gaps...)
}
