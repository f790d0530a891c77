package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/ledger"
	"sluice/libs/native"
)

const (
	// stillFor is how long a moment is waited for at which no lane moves, before one is taken at which some do.
	stillFor = 2 * time.Second
	// readTries is how often a table is read that differs each time in another way.
	readTries = 4
	// stillPoll is how often the positions are looked at again while a lane moves.
	stillPoll = 20 * time.Millisecond
	// confirmAfter is how long a difference must stand where another replica may have rows that come later.
	confirmAfter = 5 * time.Second
	// progressEvery is how many rows lie between two words of progress.
	progressEvery = 1 << 20
)

// errMoved says that the sink was writing while the table was opened.
var errMoved = errors.New("the pipeline is writing")

// reading is the table as it was read once, held against the ledgers of that moment.
type reading struct {
	written  ledger.Partition // what the lanes have written, by their ledgers or, without, by their counts
	gap      string           // why the ledgers do not tell of every row; empty when they do
	covers   bool             // rows can be compared, not only counted
	moving   bool             // lanes were writing: written is the moment that fits best
	rows     uint64
	checksum uint64
	bytes    uint64
	took     time.Duration
	sum      *ledger.Ledger    // the lanes' ledgers, without what is in the table
	missing  map[uint64]uint64 // hashes of rows that the table lacks, and how often
	extra    map[uint64]uint64
	shown    map[uint64]string // extra rows as JSON
	complete bool              // missing and extra are all there is
}

func (r *reading) equal() bool {
	if !r.covers {
		return r.rows == r.written.Rows
	}
	return r.rows == r.written.Rows && r.checksum == r.written.Checksum && r.complete && len(r.missing)+len(r.extra) == 0
}

// same tells whether two readings differ from what was written in the same way.
func (r *reading) same(o *reading) bool {
	return r.rows-r.written.Rows == o.rows-o.written.Rows && r.checksum-r.written.Checksum == o.checksum-o.written.Checksum &&
		r.complete == o.complete && maps.Equal(r.missing, o.missing) && maps.Equal(r.extra, o.extra)
}

// compare reads the table and says how it differs.
func (v *verifier) compare(ctx context.Context) error {
	v.columns = auditedColumns(v.rec.GetSchemas(), v.table)
	v.result.Limits = append(v.result.Limits, v.columns.left...)
	if err := v.sharers(ctx); err != nil {
		return err
	}
	r, err := v.read(ctx, nil)
	// Look again before anything is said of a difference, and look for the rows at it.
	for tries, stands := 0, false; err == nil && !r.equal() && !stands; tries++ {
		if tries == readTries {
			err = errMoved
			break
		}
		if v.reading.Lags {
			if err := v.step("waiting for replicas", 0, 0); err != nil {
				return err
			}
			if err := pause(ctx, confirmAfter); err != nil {
				return err
			}
		}
		var again *reading
		if again, err = v.read(ctx, r.extra); err == nil {
			stands = again.same(r)
			r = again
		}
	}
	if errors.Is(err, errMoved) {
		return v.bound(ctx)
	}
	if err != nil {
		return err
	}
	v.result.Table = &controlv1.VerifyTable{
		Name: v.table.Name.String(), Rows: r.rows, Checksum: r.checksum,
		WrittenRows: r.written.Rows, WrittenChecksum: r.written.Checksum, ReadBytes: r.bytes, Took: durationpb.New(r.took),
	}
	if err := v.judge(ctx, r); err != nil {
		return err
	}
	return nil
}

// read reads the table, if it can be at a moment at which no lane moves. It gives up with errMoved when what was written at the
// moment of reading cannot be told for too long.
func (v *verifier) read(ctx context.Context, show map[uint64]uint64) (*reading, error) {
	begin, told := time.Now(), false
	for {
		before, err := v.service.positions(ctx, v.rec.GetSpec())
		if err != nil {
			return nil, err
		}
		patient := time.Since(begin) < stillFor || !v.reading.Atomic
		if before.idle() || !patient {
			r, err := v.scan(ctx, before, patient, show)
			if !errors.Is(err, errMoved) {
				return r, err
			}
		}
		if time.Since(begin) > v.service.config.VerifyWait {
			return nil, errMoved
		}
		if !told {
			told = true
			if err := v.step("waiting for a moment at which nothing is being written", 0, 0); err != nil {
				return nil, err
			}
		}
		if err := pause(ctx, stillPoll); err != nil {
			return nil, err
		}
	}
}

// scan reads the table once. If patient, the lanes must stand still while it is opened.
func (v *verifier) scan(ctx context.Context, before positions, patient bool, show map[uint64]uint64) (*reading, error) {
	names, hashing, err := v.columns.read(v.table)
	if err != nil {
		return nil, codef(codes.FailedPrecondition, "verify: table %s: %w", v.table.Name, err)
	}
	r := &reading{shown: map[uint64]string{}}
	var moments moments
	opened := func() (err error) {
		after, err := v.service.positions(ctx, v.rec.GetSpec())
		switch {
		case err != nil:
			return err
		case still(before, after):
			moments, err = momentsOf(before)
		case patient:
			err = errMoved
		default:
			r.moving = true
			moments, err = v.service.follow(ctx, v.rec.GetSpec(), before, after)
		}
		return err
	}
	table := ledger.New(native.HashVersion)
	hashes, said, begin, expected := []uint64(nil), uint64(0), time.Now(), before.expected()
	read, err := clickhouse.Scan{
		Table: v.table.Name, Columns: names, Where: v.where, Opened: opened,
		Rows: func(columns []*native.Column) error {
			rows := columns[0].Rows()
			hashes = native.HashRows(hashes[:0], rows, names[:hashing], columns[:hashing])
			r.rows += uint64(rows)
			for row, h := range hashes {
				r.checksum += h
				table.Subtract(h)
				if show[h] > 0 && r.shown[h] == "" {
					r.shown[h] = showRow(names, columns, row)
				}
			}
			if r.rows/progressEvery != said {
				said = r.rows / progressEvery
				return v.step("reading the table", r.rows, expected)
			}
			return nil
		},
	}.Run(ctx, v.sink)
	switch {
	case errors.Is(err, errMoved):
		return nil, errMoved
	case err != nil:
		return nil, v.refused(ctx, err)
	}
	if !v.reading.Atomic {
		if err := opened(); err != nil { // what was read was not of one moment
			return nil, err
		}
	}
	r.took, r.bytes = time.Since(begin), read.Bytes
	if err := v.step("reading the table", r.rows, expected); err != nil {
		return nil, err
	}
	return r, moments.settle(r, table, len(v.columns.why) == 0)
}

func counted(hashes []uint64) map[uint64]uint64 {
	out := map[uint64]uint64{}
	for _, h := range hashes {
		out[h]++
	}
	return out
}

// showRow is a row as JSON; empty when it cannot be shown.
func showRow(names []string, columns []*native.Column, row int) string {
	one, err := clickhouse.RowOf(names, columns, row)
	if err != nil {
		return ""
	}
	text, err := clickhouse.RenderRow(one)
	if err != nil {
		return ""
	}
	return string(text)
}

// bound is what can be said of a table that is being written to all the time: it holds what was settled before it was read,
// and no more than what was settled or begun after.
func (v *verifier) bound(ctx context.Context) error {
	v.incomplete = true
	v.limit("the sink was writing all the time, for %s, so that only counts could be compared: pause the pipeline, or verify when less comes in",
		v.service.config.VerifyWait)
	before, err := v.service.positions(ctx, v.rec.GetSpec())
	if err != nil {
		return err
	}
	names, _, err := v.columns.read(v.table)
	if err != nil {
		return codef(codes.FailedPrecondition, "verify: table %s: %w", v.table.Name, err)
	}
	begin := time.Now()
	read, err := clickhouse.Scan{Table: v.table.Name, Columns: names[:1], Where: v.where,
		Rows: func([]*native.Column) error { return nil }}.Run(ctx, v.sink)
	if err != nil {
		return v.refused(ctx, err)
	}
	after, err := v.service.positions(ctx, v.rec.GetSpec())
	if err != nil {
		return err
	}
	_, least, _ := before.tally()
	_, most, _ := after.tally()
	most += after.pending()
	v.result.Table = &controlv1.VerifyTable{Name: v.table.Name.String(), Rows: read.Rows, WrittenRows: least, ReadBytes: read.Bytes, Took: durationpb.New(time.Since(begin))}
	switch {
	case read.Rows < least && len(v.reading.Removes)+len(v.reading.Changes) == 0 && !v.reading.Lags:
		v.finding("the table has %d rows and at least %d were written", read.Rows, least)
	case read.Rows > most && v.shared == "":
		v.finding("the table has %d rows and at most %d were written%s", read.Rows, most, v.othersHint())
	}
	return nil
}

// judge says what a reading means.
func (v *verifier) judge(ctx context.Context, r *reading) error {
	for _, why := range v.columns.why {
		v.limit("%s: rows are only counted", why)
	}
	if r.gap != "" {
		v.limit("%s: rows are only counted", r.gap)
	}
	v.incomplete = v.incomplete || !r.covers
	if r.equal() {
		return nil
	}
	if r.rows <= r.written.Rows && (len(v.reading.Changes) > 0 || len(v.reading.Removes) > 0 && len(r.extra) == 0) {
		v.incomplete = true
		for _, why := range slices.Concat(v.reading.Removes, v.reading.Changes) {
			v.limit("%s: the table has %d rows of %d that were written, and that may be right", why, r.rows, r.written.Rows)
		}
		return nil
	}
	if v.shared != "" && r.rows >= r.written.Rows && len(r.missing) == 0 {
		v.incomplete = true
		v.limit("%s: the table has %d rows and this pipeline has written %d; to compare them, say which are its own by a condition (where)", v.shared, r.rows, r.written.Rows)
		return nil
	}
	v.result.MoreDifferences = !r.complete && r.covers
	switch {
	case r.rows < r.written.Rows:
		v.finding("the table lacks rows: it has %d and %d were written", r.rows, r.written.Rows)
	case r.rows > r.written.Rows:
		v.finding("the table has too many rows: it has %d and %d were written%s", r.rows, r.written.Rows, v.othersHint())
	default:
		v.finding("the table has as many rows as were written, %d, but others", r.rows)
	}
	if !r.covers {
		return nil
	}
	return v.differences(ctx, r)
}

func (v *verifier) othersHint() string {
	if v.where != "" {
		return ""
	}
	return "; if the table had rows before the pipeline, or others write to it, say which are its own by a condition (where)"
}

// sharers notes other pipelines that write to the same table.
func (v *verifier) sharers(ctx context.Context) error {
	if v.where != "" {
		return nil // who gives a condition knows
	}
	all, err := v.service.registry.List(ctx)
	if err != nil {
		return stored(ctx, err)
	}
	name := clickhouse.TableName(v.sink)
	for _, other := range all {
		sink := other.GetSpec().GetSink().GetClickhouse()
		if other.GetUid() == v.rec.GetUid() || clickhouse.TableName(sink) != name || !slices.ContainsFunc(sink.GetAddr(), func(a string) bool {
			return slices.Contains(v.sink.GetAddr(), a)
		}) {
			continue
		}
		v.shared = fmt.Sprintf("pipeline %s writes to the same table", other.GetSpec().GetId())
	}
	return nil
}
