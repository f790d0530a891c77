package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
)

// defaultLocate is how many differing rows are looked up in Kafka unless the caller says otherwise.
const defaultLocate = 1000

// Verify audits a pipeline: see verifier. It changes nothing and may be called at any time, also while the pipeline runs.
func (s *Service) Verify(req *controlv1.VerifyRequest, stream grpc.ServerStreamingServer[controlv1.VerifyResponse]) error {
	rec, _, err := s.get(stream.Context(), req.GetId())
	if err != nil {
		return err
	}
	v := &verifier{
		service: s, rec: rec, sink: rec.GetSpec().GetSink().GetClickhouse(), where: req.GetWhere(), locate: int(req.GetLocate()),
		tell: func(p *controlv1.VerifyProgress) error {
			return stream.Send(&controlv1.VerifyResponse{Message: &controlv1.VerifyResponse_Progress{Progress: p}})
		},
		result: &controlv1.VerifyResult{},
	}
	if v.locate == 0 {
		v.locate = defaultLocate
	}
	if err := v.run(stream.Context()); err != nil {
		return err
	}
	return stream.Send(&controlv1.VerifyResponse{Message: &controlv1.VerifyResponse_Result{Result: v.result}})
}

// verifier holds a pipeline's table against its ledgers, and the counts of its stages against each other.
//
// The sink adds up, with every block that it settles, how many rows of which partition it has written and a hash of each.
// The table is read once and hashed the same way. Equal counts and sums mean equal rows, but for a chance of 2^-64. Where they differ, the
// sketch in the ledgers tells the hashes of the rows that are missing or too many, if those are not too many; the table is then read
// again, to be sure and to show the rows, and Kafka for their offsets.
//
// It never says DIFFERENT of a table that is only on its way: positions are read before and after the server has chosen
// what it reads, and only a reading during which no lane moved counts.
type verifier struct {
	service *Service
	rec     *controlv1.PipelineRecord
	sink    *controlv1.ClickHouseSink
	where   string
	locate  int // most differences to look up in Kafka
	tell    func(*controlv1.VerifyProgress) error
	result  *controlv1.VerifyResult

	table   *clickhouse.Table
	reading *clickhouse.Reading
	columns audited
	// shared names another pipeline that writes to the table; empty: none does.
	shared string
	// hung names a block that did not settle for as long as was waited; empty: lanes were writing.
	hung string
	// incomplete: the rows could not be compared.
	incomplete bool
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.step("looking at the table", 0, 0); err != nil {
		return err
	}
	if err := v.describe(ctx); err != nil {
		return err
	}
	if v.table.Exists {
		if err := v.compare(ctx); err != nil {
			return err
		}
	} else {
		v.result.Table = &controlv1.VerifyTable{Name: v.table.Name.String()}
		v.finding("table %s does not exist", v.table.Name)
	}
	if err := v.step("adding the stages' counts up", 0, 0); err != nil {
		return err
	}
	if err := v.account(ctx); err != nil {
		return err
	}
	switch {
	case len(v.result.Findings) > 0:
		v.result.Verdict = controlv1.VerifyResult_DIFFERENT
	case v.incomplete:
		v.result.Verdict = controlv1.VerifyResult_INCOMPLETE
	default:
		v.result.Verdict = controlv1.VerifyResult_EQUAL
	}
	return nil
}

// describe asks for the table and for what can be expected of it.
func (v *verifier) describe(ctx context.Context) error {
	probe, cancel := context.WithTimeout(ctx, v.service.config.ProbeTimeout)
	defer cancel()
	var err error
	if v.table, err = clickhouse.Describe(probe, v.sink); err != nil {
		return v.refused(ctx, err)
	}
	if !v.table.Exists {
		return nil
	}
	if v.reading, err = clickhouse.ReadingOf(probe, v.sink, v.table); err != nil {
		return v.refused(ctx, err)
	}
	return nil
}

// refused gives an error of ClickHouse its code.
func (v *verifier) refused(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var answer *clickhouse.ServerError
	if errors.As(err, &answer) && v.where != "" {
		return codef(codes.InvalidArgument, "where: %s: ClickHouse refuses to read: %w", v.where, err)
	}
	if answer != nil {
		return codef(codes.FailedPrecondition, "verify: %w", err)
	}
	if problem, unreachable := refused(err); !unreachable {
		return codef(codes.FailedPrecondition, "verify: %s", problem.String())
	}
	return codef(codes.Unavailable, "verify: %w", err)
}

func (v *verifier) step(what string, rows, of uint64) error {
	return v.tell(&controlv1.VerifyProgress{Step: what, Rows: rows, OfRows: of})
}

func (v *verifier) finding(format string, args ...any) {
	v.result.Findings = append(v.result.Findings, fmt.Sprintf(format, args...))
}

func (v *verifier) limit(format string, args ...any) {
	v.result.Limits = append(v.result.Limits, fmt.Sprintf(format, args...))
}

// pause waits unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
