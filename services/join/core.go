package join

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/batch"
	"sluice/libs/deadletters"
	"sluice/libs/fold"
	"sluice/libs/spec"
	"sluice/libs/watermark"
	"sluice/services/join/internal/match"
	"sluice/services/join/internal/state"
)

// core is the fold.Core: it takes batches apart into rows, and makes batches of what comes out.
type core struct {
	log     *slog.Logger
	names   [2]string // of the sources
	layouts *layouts
	// newest is the newest schema revision of a batch in the lane's log so far. By it all is laid out that comes out, whichever its rows were read under: they
	// may have waited since before an update, and the table is as the update has found it.
	newest   uint64
	topics   [2]string
	times    [2]string // the field that is the event time; "": the Kafka timestamp
	unitMS   int64     // of times of segments
	settings settings  // that hold
	asked    settings
	adopted  bool // settings are on record
	rows     *state.Store
	joiner   *match.Joiner
	tracker  *watermark.Tracker
	out      *parts
	links    links
	mixed    [2]bool   // offsets of a partition come through several writers
	reported uint64    // rows on disk, for the log
	past     *recalled // nil but while rows come again: see fold.Replayer
	set      spec.LaneSet
	share    int                     // of the keys, which this lane has in its set
	only     func(r *state.Row) bool // rows of a checkpoint that are wanted; nil: all
	lane     func() *core            // an empty core for a lane of the set before
	// broken is why the state is of no further use.
	broken error

	raw   []byte // scratch: columns of the batch, decompressed
	cells []byte // scratch: of one row
}

var (
	_ fold.Core    = (*core)(nil)
	_ fold.Adopter = (*core)(nil)
	_ fold.Heir    = (*core)(nil)
)

// config is what a core needs beside the pipeline's record.
type config struct {
	lane int
	set  spec.LaneSet // that it is of
	// disk opens the place for rows beyond the memory.
	disk func() (state.Disk, error)
	// maxMessage is the largest message that the log takes.
	maxMessage int
	log        *slog.Logger
}

func newCore(record *controlv1.PipelineRecord, cfg config) *core {
	p := record.GetSpec()
	join := p.GetJoin()
	asked := settingsOf(p)
	c := &core{log: cfg.log, names: [2]string{join.GetLeft(), join.GetRight()}, layouts: newLayouts(record), asked: asked, unitMS: unitMS,
		set: cfg.set, share: cfg.lane - cfg.set.First, lane: func() *core { return newCore(record, cfg) }}
	writers := map[string]int{}
	for _, b := range spec.Branches(p) {
		writers[b.Source] = 1
		if b.Relane { // its partitions come through the dedup stage of every lane
			writers[b.Source] = cfg.set.Count
			c.mixed[b.Side] = true
		}
		c.topics[b.Side], c.times[b.Side] = b.Spec.GetKafka().GetTopic(), b.Time
	}
	c.rows = state.New(state.Options{Budget: int(join.GetMemory()), BornMS: unitMS, Disk: cfg.disk})
	c.joiner, c.tracker = match.New(asked.semantics(join), c.rows), watermark.New(asked.times(c.names, writers))
	c.adopt(asked)
	c.out = &parts{core: c, since: batch.NewTaken(), lane: cfg.lane, maxMessage: cfg.maxMessage}
	return c
}

// side tells which side a batch's source is on.
func (c *core) side(source []byte) (state.Side, error) {
	for side, name := range c.names {
		if string(source) == name {
			return state.Side(side), nil
		}
	}
	return 0, fmt.Errorf("a batch of source %q, which the join does not have", source)
}

// Step takes a batch's rows in, then lets event time go on to where the batch says that its partition is.
func (c *core) Step(in fold.Input, out fold.Emitter) error {
	if c.broken != nil {
		return c.broken
	}
	v := in.View
	side, err := c.side(v.Source)
	if err != nil {
		return err
	}
	input, err := c.open(v, side)
	if err != nil {
		return err
	}
	// From here on rows change: an error ends the lane.
	end := v.End()
	c.newest = max(c.newest, v.SchemaRevision)
	c.rows.SetTime(v.ArrivalMS)
	c.out.begin(in, out)
	c.links.begin(in, side, c.mixed[side])
	if w := c.tracker.Watermark(); c.past == nil && w > c.joiner.Watermark() { // right after Inherit
		err = c.joiner.Advance(w, c.out)
	}
	if err == nil {
		err = c.take(in, side, input)
	}
	if err == nil {
		err = c.advance(in)
	}
	if err == nil {
		err = c.rows.Balance()
	}
	if err == nil {
		err = c.out.end()
	}
	if err == nil {
		c.out.since.Admit(in.Writer, &end)
	}
	if err != nil {
		c.broken = errors.Join(err, fold.ErrBroken)
		return c.broken
	}
	c.tell()
	return nil
}

// advance lets event time go on. While rows come again that had been decided it stands still; then it is at least where it was when they were.
func (c *core) advance(in fold.Input) error {
	w := c.tracker.Add(progressOf(in))
	if c.past != nil && in.Sequence >= c.past.until {
		w = max(w, c.past.watermark)
		c.joiner.Forget()
		c.past, c.out.past = nil, nil
	}
	return c.joiner.Advance(w, c.out)
}

// open checks all that may be wrong with a batch before anything is changed by it.
func (c *core) open(v *batch.View, side state.Side) (*input, error) {
	if v.SchemaRevision > c.newest {
		if _, err := c.layouts.output(v.SchemaRevision); err != nil {
			return nil, err
		}
	}
	if v.Selected == 0 {
		return nil, nil
	}
	if len(v.JoinKeys) != v.Rows*batch.KeyBytes || len(v.EventTimes) != v.Rows*batch.TimeBytes {
		return nil, fmt.Errorf("a batch of source %q without join keys and event times", v.Source)
	}
	input, err := c.layouts.input(side, v.SchemaRevision)
	if err != nil {
		return nil, err
	}
	raw, err := v.RawColumns(c.raw)
	if err != nil {
		return nil, err
	}
	if v.Compression != 0 {
		c.raw = raw // else it is the message's own memory
	}
	return input, input.open(raw, v.Rows)
}

// take takes the rows in.
func (c *core) take(in fold.Input, side state.Side, input *input) error {
	v := in.View
	if v.Selected == 0 {
		return nil
	}
	in.Tally.Records += uint64(v.Selected)
	if c.past != nil {
		c.past.begin(in)
	}
	for row := range v.Rows {
		if c.past != nil {
			c.past.row = row
		}
		if !v.Selects(row) {
			input.skip()
			continue
		}
		c.cells = input.cut(c.cells[:0])
		r := state.Row{
			Side: side, Key: v.JoinKey(row), TimeMS: v.EventTime(row), Partition: v.Partition, Offset: v.Offset(row),
			Revision: v.SchemaRevision, Cells: c.cells,
		}
		verdict, err := c.joiner.Add(r, v.ArrivalMS, c.out)
		if err != nil {
			return err
		}
		switch verdict {
		case match.Late:
			c.out.refuse(c.refusal(v, &r, fmt.Sprintf(latePrefix+" its event time %s is before the watermark %s; raise join.grace to take rows that late",
				moment(r.TimeMS), moment(c.joiner.Watermark()))))
		case match.Future:
			c.out.refuse(c.refusal(v, &r, c.tooFarAhead(v, &r)))
		}
		if err := c.rows.Balance(); err != nil {
			return err
		}
	}
	return nil
}

// What the reasons of letters begin with: of rows that came too late, and of rows whose time is too far ahead.
const (
	latePrefix   = "late:"
	futurePrefix = "future:"
)

// tooFarAhead is why a row's time is not believed.
func (c *core) tooFarAhead(v *batch.View, r *state.Row) string {
	what := "its event time, the Kafka timestamp,"
	if field := c.times[r.Side]; field != "" {
		what = "its event time, field " + field + ","
	}
	return fmt.Sprintf(futurePrefix+" %s is %s, more than join.max_future (%v) after its arrival at %s; mend the clock that set it, or raise join.max_future to take rows that far ahead",
		what, moment(r.TimeMS), ms(c.settings.maxFuture), moment(v.ArrivalMS))
}

// refusal is the letter of a row that the join does not take.
func (c *core) refusal(v *batch.View, r *state.Row, reason string) deadletters.Refusal {
	l := deadletters.Refusal{
		Source: string(v.Source), Topic: string(v.Topic), Partition: r.Partition, Offset: r.Offset, SchemaRevision: r.Revision, Reason: reason,
	}
	copy(l.TopicID[:], v.TopicID)
	return l
}

// progressOf is what a batch says of its partition.
func progressOf(in fold.Input) watermark.Batch {
	v := in.View
	return watermark.Batch{
		Writer: in.Writer, Source: string(v.Source), TopicID: string(v.TopicID), Partition: v.Partition, ArrivalMS: v.ArrivalMS,
		MaxMS: v.Progress.MaxEventMS, HasMax: v.Progress.HasMax, IdleSinceMS: v.Progress.IdleSinceMS, Partitions: v.Progress.Partitions,
	}
}

// tell tells the operator when rows go to disk, and when all are back.
func (c *core) tell() {
	now := uint64(c.rows.OnDisk())
	switch {
	case c.reported == 0 && now > 0:
		c.log.Info("rows that wait are more than join.memory takes: the oldest are on disk", "rows", now)
	case c.reported > 0 && now == 0:
		c.log.Info("all rows that wait are in memory again")
	}
	c.reported = now
}

// Report tells how many rows wait, and how far event time has come.
func (c *core) Report(s *stagev1.UnitStatus) {
	s.StateKeys, s.StateBytes = uint64(c.rows.Len(state.Left)+c.rows.Len(state.Right)), uint64(c.rows.Bytes())
	s.BufferedRows, s.WatermarkMs, s.LaneWatermarkMs = map[string]uint64{}, map[string]int64{}, nil
	if at := c.joiner.Watermark(); at != watermark.None {
		s.LaneWatermarkMs = &at
	}
	for side, name := range c.names {
		s.BufferedRows[name] = uint64(c.rows.Len(state.Side(side)))
		if at := c.tracker.Source(name); at != watermark.None {
			s.WatermarkMs[name] = at
		}
	}
}

// Close removes what is on disk.
func (c *core) Close() error { return c.rows.Close() }

// stateVersion is the version of the core's own part of the manifest.
const stateVersion = 4

func (c *core) appendState(dst []byte) []byte {
	dst = c.appendSettings(binary.AppendUvarint(dst, stateVersion))
	return binary.AppendUvarint(c.joiner.Append(c.tracker.Append(dst)), c.newest)
}
