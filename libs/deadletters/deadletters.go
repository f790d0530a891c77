// Package deadletters writes the rows that a stage behind the ingestor refuses to the dead-letter log of the
// pipeline, with the records that they were made of, fetched back from Kafka.
//
// It guarantees that each refusal of an Append is in the log once and in order, whatever is killed, if the caller
// repeats an Append whose end it did not see with the same position and the same refusals; that a letter says so when Kafka no
// longer has its record; and that whoever wrote under the same name before is fenced off. While NATS or Kafka is away it
// waits, visibly: an hour of lag is worth less than an event.
//
// It does not know the order of positions: an Append whose position lies before the last one is the caller's to leave out. And it
// cannot tell a record from another that Kafka has given the same offset, unless the refusal names the topic's id.
package deadletters

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/fencedlog"
)

// Refusal is a row that is refused.
type Refusal struct {
	// Source is the name of the source that the row came from; empty in a pipeline without a join.
	Source string
	// Where its record is. An all-zero TopicID is not known, and so not compared.
	Topic     string
	TopicID   [16]byte
	Partition int32
	Offset    int64
	// Field or column at fault; empty when it is the row as a whole.
	Field          string
	Reason         string
	SchemaRevision uint64
	// Row renders the row for a record that Kafka no longer has; nil: the letter has no value then.
	Row func() ([]byte, error)
}

// Options of a writer.
type Options struct {
	Stage string // that refuses, as letters name it
	Lane  int    // of the dead-letter log that is written to
	// MaxPayload is the largest message that the NATS server takes.
	MaxPayload int64
	// Sources has where records are fetched from, by Refusal.Source.
	Sources map[string]*controlv1.KafkaSource
	// ClientID is the name under which Kafka is asked.
	ClientID string
	// Notes is the pipeline's state bucket: which rows were refused last is noted there, so that letters which the log loses can be made
	// anew. Nil: they are not.
	Notes jetstream.KeyValue
	// Wait is told why a letter has to wait, and nil when it went through after that. May be nil.
	Wait func(error)
}

// letterOverhead is what a letter may need in a message beside its own fields.
const letterOverhead = 16

// Writer is one writer of the dead-letter log. It is not for concurrent use.
type Writer struct {
	js        jetstream.JetStream
	pipeline  string
	options   Options
	log       *fencedlog.Writer
	originals originals
	notes     notes
	// The last message in the log: it ends with refusal number done of the Append of this position.
	position string
	done     int
	last     *eventv1.LettersMark // nil: none; never changed in place
}

// Open becomes the writer of that name and fences off the one before. It returns the position of the last Append of which
// something is in the log, "" if there is none; In tells how much.
func Open(ctx context.Context, js jetstream.JetStream, pipeline, writer string, options Options) (*Writer, string, error) {
	if options.Wait == nil {
		options.Wait = func(error) {}
	}
	log, recovered, err := fencedlog.Open(ctx, js, fencedlog.Log{Pipeline: pipeline, Stage: fencedlog.DeadLetters}, writer, fencedlog.Options{
		Lanes: []int{options.Lane}, Wait: options.Wait,
	})
	if err != nil {
		return nil, "", err
	}
	w := &Writer{
		js: js, pipeline: pipeline, options: options, log: log, originals: originals{options: &options},
		notes: notes{values: options.Notes, prefix: NotesOf(options.Stage, options.Lane)},
	}
	last := recovered.Last[options.Lane]
	if w.position, w.done, err = parse(last.Position); err != nil {
		return nil, "", err
	}
	if w.last, err = markOf(ctx, js, pipeline, writer, options.Lane, last); err != nil {
		return nil, "", err
	}
	return w, w.position, nil
}

// Mark is the writer's last letter, for the checkpoint of the stage: see Lost. Nil: there is none.
func (w *Writer) Mark() *eventv1.LettersMark { return w.last }

// A message's position in the log is the Append's with the number of its refusals that are in. One without a number is
// of a version that put one refusal to a position.
func parse(text string) (position string, done int, err error) {
	position, number, found := strings.Cut(text, "#")
	if !found {
		return text, min(len(text), 1), nil
	}
	if done, err = strconv.Atoi(number); err != nil {
		return "", 0, fmt.Errorf("position %q of a dead-letter message: %w", text, err)
	}
	return position, done, nil
}

// PositionOf is the Append's position in that of a message of the log.
func PositionOf(message string) (string, error) {
	position, _, err := parse(message)
	return position, err
}

// In tells how many refusals of the Append of that position are in the log. It knows of the last Append only.
func (w *Writer) In(position string) int {
	if position != w.position {
		return 0
	}
	return w.done
}

// Append writes the refusals, but for those that In says are there. It returns once they are in the log, or with
// fencedlog.ErrFenced, or when ctx ends. A position must not contain "#".
func (w *Writer) Append(ctx context.Context, position string, refusals []Refusal) error {
	var letters []*eventv1.DeadLetter
	var rows []*eventv1.RefusedRow
	size := 0
	send := func(done int) error {
		// A crash after this has noted rows whose letters are made when the Append is repeated.
		if err := w.note(ctx, position, done, rows); err != nil {
			return err
		}
		err := w.send(ctx, position, done, letters)
		letters, rows, size = nil, nil, 0
		return err
	}
	for i := w.In(position); i < len(refusals); i++ {
		letter, err := w.letter(ctx, refusals[i])
		if err != nil {
			return err
		}
		n := proto.Size(letter) + letterOverhead
		if size > 0 && size+n > w.room() {
			if err := send(i); err != nil {
				return err
			}
		}
		letters, rows = append(letters, letter), append(rows, rowOf(&refusals[i], letter))
		size += n
	}
	if size == 0 {
		return nil
	}
	return send(len(refusals))
}

// send appends a message that ends with refusal number done of the Append of that position.
func (w *Writer) send(ctx context.Context, position string, done int, letters []*eventv1.DeadLetter) error {
	next := &eventv1.LettersMark{Count: w.last.GetCount() + uint64(len(letters)), Position: positionAt(position, done)}
	data, err := proto.Marshal(&eventv1.DeadLetterBatch{Letters: letters, Count: next.GetCount()})
	if err != nil {
		return fmt.Errorf("encode dead letters: %w", err)
	}
	// A crash after this finds in the log how far it is, and goes on behind it.
	sequence, err := w.log.Append(ctx, w.options.Lane, next.GetPosition(), data)
	if err != nil {
		return err
	}
	w.position, w.done = position, done
	at, err := w.stored(ctx, sequence)
	if err != nil {
		return err
	}
	next.Message = &eventv1.Mark{Sequence: sequence, TimeNs: at.UnixNano()}
	w.last = next
	return nil
}

func positionAt(position string, done int) string { return position + "#" + strconv.Itoa(done) }

// Close lets go of the connections to Kafka. The writer can be used again.
func (w *Writer) Close() { w.originals.close() }

// room is how many bytes of letters fit into a message, with its headers.
func (w *Writer) room() int { return int(w.options.MaxPayload) - 16<<10 }

func (w *Writer) letter(ctx context.Context, r Refusal) (*eventv1.DeadLetter, error) {
	letter := &eventv1.DeadLetter{
		Topic: clean(r.Topic), Partition: r.Partition, Offset: r.Offset, Stage: w.options.Stage, Field: clean(r.Field), Reason: clean(r.Reason),
		SchemaRevision: r.SchemaRevision, RefusedMs: time.Now().UnixMilli(),
	}
	if err := w.originals.fill(ctx, letter, r); err != nil {
		return nil, err
	}
	cut(letter, w.room())
	return letter, nil
}

// clean makes text fit for a protobuf string: servers and users put any bytes there.
func clean(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// cut makes the letter fit a message.
func cut(letter *eventv1.DeadLetter, room int) {
	letter.ValueSize = uint64(len(letter.GetValue()))
	headers := 0
	for _, h := range letter.GetHeaders() {
		headers += len(h.GetKey()) + len(h.GetValue()) + letterOverhead
	}
	if room -= 4<<10 + len(letter.GetReason()) + len(letter.GetField()); len(letter.Value)+len(letter.Key)+headers <= room {
		return
	}
	letter.Headers = nil
	letter.Key = letter.Key[:min(len(letter.Key), room/2)]
	if keep := room - len(letter.Key); len(letter.Value) > keep {
		letter.Value, letter.ValueTruncated = letter.Value[:keep], true
	}
}
