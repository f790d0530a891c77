package control

import (
	"context"
	"errors"
	"maps"
	"time"

	"google.golang.org/grpc/codes"

	"sluice/libs/clickhouse"
	"sluice/libs/ledger"
	"sluice/libs/native"
)

const (
	// stillFor is how long a moment is waited for at which no lane moves, before one is taken at which some do.
	stillFor = 2 * time.Second
	// stillPoll is how often the positions are looked at again while a lane moves.
	stillPoll = 20 * time.Millisecond
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
	loose    bool             // not even the count of each lane is exact
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

// read reads the table, if it can be at a moment at which no lane moves. It gives up with errMoved when what was written at the
// moment of reading cannot be told for too long.
func (v *verifier) read(ctx context.Context, show map[uint64]uint64) (*reading, error) {
	begin, told := time.Now(), false
	var first positions
	for {
		before, err := v.service.positions(ctx, v.rec)
		if err != nil {
			return nil, err
		}
		if first.lanes == nil {
			first = before
		}
		patient := time.Since(begin) < stillFor || !v.reading.Atomic
		if before.idle() || !patient {
			r, err := v.scan(ctx, before, patient, show)
			if !errors.Is(err, errMoved) {
				return r, err
			}
		}
		if time.Since(begin) > v.service.config.VerifyWait {
			v.hung = hung(first, before)
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
		after, err := v.service.positions(ctx, v.rec)
		switch {
		case err != nil:
			return err
		case still(before, after):
			moments, err = momentsOf(before)
		case patient:
			err = errMoved
		default:
			r.moving = true
			moments, err = v.service.follow(ctx, v.rec, before, after)
		}
		return err
	}
	table := ledger.New(native.HashVersion)
	hashes, said, begin, expected := []uint64(nil), uint64(0), time.Now(), before.written()
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
