package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/native"
)

const (
	// readTries is how often a table is read that differs each time in another way.
	readTries = 4
	// confirmAfter is how long a difference must stand where another replica may have rows that come later.
	confirmAfter = 5 * time.Second
)

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

// bound is what can be said of a table that is being written to all the time: it holds what was settled before it was read,
// and no more than what was settled or begun after.
func (v *verifier) bound(ctx context.Context) error {
	v.incomplete = true
	if v.hung != "" {
		v.limit("%s, did not settle within %s, so that only counts could be compared: sluice status says what the sink waits for", v.hung, v.service.config.VerifyWait)
	} else {
		v.limit("the sink was writing all the time, for %s, so that only counts could be compared: pause the pipeline, or verify when less comes in",
			v.service.config.VerifyWait)
	}
	before, err := v.service.positions(ctx, v.rec)
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
	after, err := v.service.positions(ctx, v.rec)
	if err != nil {
		return err
	}
	least, most := before.written(), after.written()+after.pending()
	v.result.Table = &controlv1.VerifyTable{Name: v.table.Name.String(), Rows: read.Rows, WrittenRows: least, ReadBytes: read.Bytes, Took: durationpb.New(time.Since(begin))}
	switch {
	case slices.ContainsFunc(after.lanes, loose): // the counts are not exact
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
	if r.loose {
		v.incomplete = true
		v.limit("the table has %d rows and %d were counted; of those of the lane without a ledger some may have been counted twice, or not at all", r.rows, r.written.Rows)
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
