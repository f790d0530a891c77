package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pb "google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	eventv1 "sluice/gen/sluice/event/v1"
	"sluice/libs/batch"
	"sluice/libs/checkpoint"
	"sluice/libs/clickhouse"
	"sluice/libs/ledger"
	"sluice/libs/native"
	"sluice/libs/rows"
	"sluice/libs/spec"
	"sluice/services/control"
)

const audit = `
id: audit
source: {kafka: {brokers: [KAFKA], topic: audit}}
sink: {clickhouse: {addr: ["CH"], database: DB, table: audit}}
`

// audited is a pipeline with n events, all of which its stages have settled, as far as their positions tell.
type audited struct {
	*site
	record   *controlv1.PipelineRecord
	position *eventv1.SinkPosition // of lane 0, which has all
}

// newAudited makes a table of the given engine for columns id and n, and writes the events as the sink does.
func newAudited(t *testing.T, engine string, n int) *audited {
	t.Helper()
	s := newSite(t)
	s.stop()
	s.start(control.Config{StopTimeout: quick.StopTimeout, CheckEvery: quick.CheckEvery, ProbeTimeout: quick.ProbeTimeout, VerifyWait: 3 * time.Second})
	events := make([]string, n)
	for i := range events {
		events[i] = fmt.Sprintf(`{"id":"e%d","n":%d}`, i, i)
	}
	s.topic("audit", 1, events...)
	s.sql("CREATE TABLE DB.audit (id String, n UInt32) ENGINE = " + engine)
	a := &audited{site: s, record: s.create(s.parse(audit)).Pipeline}

	schema := a.record.Schemas[0]
	plan, err := rows.NewBranchPlan(schema, spec.Branches(a.record.Spec)[0])
	require.NoError(t, err)
	parser, columns := rows.NewParser(plan), plan.NewColumns()
	for i, e := range events {
		_, reject := parser.Parse(rows.Record{Topic: "audit", Offset: int64(i), Value: []byte(e)})
		require.Nil(t, reject)
		require.Nil(t, parser.AppendTo(columns))
	}
	names, input := []string{}, []proto.InputColumn{}
	for i, c := range schema.Columns {
		names, input = append(names, c.Name), append(input, proto.InputColumn{Name: c.Name, Data: columns[i]})
	}
	in, err := clickhouse.NewInserter(a.record.Spec.Sink.Clickhouse)
	require.NoError(t, err)
	defer in.Close()
	require.NoError(t, in.Insert(t.Context(), clickhouse.Insert{Table: clickhouse.TableName(a.record.Spec.Sink.Clickhouse), Columns: input, QueryID: "audit"}))

	l := ledger.New(native.HashVersion)
	for i, h := range native.HashRows(nil, n, names, columns) {
		l.Add(0, int64(i), h)
	}
	tally := &eventv1.Tally{Records: uint64(n), Rows: uint64(n)}
	a.position = &eventv1.SinkPosition{Format: 1, CoveredSequence: 1, Tally: tally, Ledger: l.Proto()}
	a.store()
	body, err := pb.Marshal(&eventv1.IngestPosition{Topic: "audit", NextOffset: int64(n), Tally: tally})
	require.NoError(t, err)
	_, err = a.js.Publish(t.Context(), "sluice.audit.ingest.fence.0", body)
	require.NoError(t, err)
	return a
}

func (a *audited) run(statements ...string) {
	a.t.Helper()
	for _, sql := range statements {
		a.sql(sql)
	}
}

// store writes the lane's position.
func (a *audited) store() {
	a.t.Helper()
	kv, err := a.js.KeyValue(a.t.Context(), checkpoint.Bucket("audit"))
	require.NoError(a.t, err)
	value, err := pb.Marshal(a.position)
	require.NoError(a.t, err)
	_, err = kv.Put(a.t.Context(), "sink.0.position", value)
	require.NoError(a.t, err)
}

func (a *audited) try(ctx context.Context, where string) (*controlv1.VerifyResult, error) {
	stream, err := a.client.Verify(ctx, &controlv1.VerifyRequest{Id: "audit", Where: where})
	if err != nil {
		return nil, err
	}
	var result *controlv1.VerifyResult
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return result, nil
		}
		if err != nil {
			return nil, err
		}
		if resp.GetResult() != nil {
			result = resp.GetResult()
		}
	}
}

func (a *audited) verify(want controlv1.VerifyResult_Verdict, where string) *controlv1.VerifyResult {
	a.t.Helper()
	r, err := a.try(a.t.Context(), where)
	require.NoError(a.t, err)
	require.Equal(a.t, want, r.Verdict, "%v", r)
	return r
}

const (
	equal      = controlv1.VerifyResult_EQUAL
	different  = controlv1.VerifyResult_DIFFERENT
	incomplete = controlv1.VerifyResult_INCOMPLETE
)

func TestVerifyColumnsThatChange(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 1000)
	r := a.verify(equal, "")
	require.EqualValues(t, 1000, r.Table.Rows)
	require.Equal(t, r.Table.Checksum, r.Partitions[0].Checksum)
	require.Empty(t, r.Limits)
	a.run("ALTER TABLE DB.audit ADD COLUMN later Nullable(String)")
	a.verify(equal, "")
	a.run("ALTER TABLE DB.audit MODIFY COLUMN n UInt64", "ALTER TABLE DB.audit MODIFY COLUMN id LowCardinality(String)")
	a.verify(equal, "")
	a.run("ALTER TABLE DB.audit MODIFY COLUMN n String")
	r = a.verify(incomplete, "")
	require.Contains(t, r.Limits[0], "column n was written as UInt32 and is String now: rows are only counted")
	require.EqualValues(t, 1000, r.Table.WrittenRows)
	a.run("DELETE FROM DB.audit WHERE id = 'e7'")
	r = a.verify(different, "")
	require.Contains(t, r.Findings[0], "it has 999 and 1000 were written")
	require.Empty(t, r.Differences)
}

func TestVerifyTablesThatMerge(t *testing.T) {
	a := newAudited(t, "ReplacingMergeTree ORDER BY intDiv(n, 2)", 10)
	a.run("OPTIMIZE TABLE DB.audit FINAL")
	r := a.verify(incomplete, "")
	require.Contains(t, r.Limits[0], "has the engine ReplacingMergeTree, which keeps one of several rows: the table has 5 rows of 10 that were written")
	require.Empty(t, r.Differences)
	a.run("INSERT INTO DB.audit VALUES ('forged', 100)")
	r = a.verify(different, "")
	require.Contains(t, fmt.Sprint(r.Differences), "forged", "no merge makes a new row")
	a.run("TRUNCATE TABLE DB.audit", "INSERT INTO DB.audit SELECT concat('e', toString(number)), number FROM numbers(10)")
	r, err := a.try(t.Context(), "")
	require.NoError(t, err)
	require.NotEqual(t, different, r.Verdict, "%v", r)
}

func TestVerifyTTL(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 10)
	a.run("ALTER TABLE DB.audit MODIFY TTL toDateTime(n) + INTERVAL 1 SECOND", "OPTIMIZE TABLE DB.audit FINAL")
	r := a.verify(incomplete, "")
	require.Contains(t, r.Limits[0], "has a TTL, after which rows or values leave it: the table has 0 rows of 10")
}

func TestVerifyTableOfSeveral(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 10)
	a.run("INSERT INTO DB.audit VALUES ('foreign', 7)")
	r := a.verify(different, "")
	require.Contains(t, r.Findings[0], "others write to it, say which are its own by a condition")
	require.Len(t, r.Differences, 1)
	require.EqualValues(t, -1, r.Differences[0].Partition)
	require.JSONEq(t, `{"id":"foreign","n":7}`, r.Differences[0].Row)

	a.create(a.parse(strings.ReplaceAll(audit, "id: audit", "id: other")))
	r = a.verify(incomplete, "")
	require.Contains(t, r.Limits[0], "pipeline other writes to the same table")
	a.verify(equal, "id != 'foreign'")
	a.run("DELETE FROM DB.audit WHERE id = 'e3'")
	r = a.verify(different, "")
	require.Len(t, r.Differences, 2)

	_, err := a.try(t.Context(), "nothing = 1")
	require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
	absent, err := a.client.Verify(t.Context(), &controlv1.VerifyRequest{Id: "absent"})
	require.NoError(t, err)
	_, err = absent.Recv()
	require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
}

func TestVerifyWithoutLedger(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 10)
	kept := a.position.Ledger
	a.position.Ledger = nil
	a.store()
	r := a.verify(incomplete, "")
	require.Contains(t, r.Limits[0], "lane 0 has no ledger, since an earlier version of Sluice has written rows of it: rows are only counted")
	a.run("DELETE FROM DB.audit WHERE id = 'e3'")
	a.verify(different, "")
	a.position.AgainOffsets = map[string]int64{"left-0": 10} // its counts are not exact any more
	a.store()
	r = a.verify(incomplete, "")
	require.Contains(t, r.Limits[0], "since its join has put out again what it had put out before")
	require.Contains(t, r.Limits[1], "the table has 9 rows and 10 were counted; of those of the lane without a ledger some may have been counted twice, or not at all")
	a.position.AgainOffsets = nil
	a.position.Ledger = pb.CloneOf(kept)
	a.position.Ledger.Hash++
	a.store()
	require.Contains(t, a.verify(different, "").Limits[0], "hashes of version")
	a.position.Ledger = kept
	a.store()
	require.Len(t, a.verify(different, "").Differences, 1)
}

// A lane whose block never settles: nothing can be said of the rows, and nothing false is.
func TestVerifyWhileABlockHangs(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 10)
	a.position.Pending = &eventv1.PendingBlock{FirstSequence: 2, LastSequence: 2, Rows: 3}
	a.store()
	a.run("INSERT INTO DB.audit VALUES ('pending', 1), ('pending', 2), ('pending', 3)")
	r := a.verify(incomplete, "")
	require.Contains(t, r.Limits[0], "the block of lane 0, messages 2 to 2, of 3 rows, did not settle within 3s, so that only counts could be compared")
	a.run("INSERT INTO DB.audit VALUES ('forged', 4)")
	require.Contains(t, a.verify(different, "").Findings[0], "the table has 14 rows and at most 13 were written")
	a.run("TRUNCATE TABLE DB.audit")
	require.Contains(t, a.verify(different, "").Findings[0], "the table has 0 rows and at least 10 were written")
}

// Heartbeats move positions and the ends of logs and bring no rows: nothing is on its way, and nothing is being written.
func TestVerifyWhileHeartbeatsCome(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 10)
	beat := (&batch.View{Format: batch.Format, Topic: []byte("audit"), LastOffset: -1}).Append(nil)
	ack, err := a.js.Publish(t.Context(), "sluice.audit.ingest.0.0", beat)
	require.NoError(t, err)
	a.position.CoveredSequence = ack.Sequence - 1 // after the fence of newAudited, before the heartbeat
	a.store()
	kv, err := a.js.KeyValue(t.Context(), checkpoint.Bucket("audit"))
	require.NoError(t, err)
	position := pb.CloneOf(a.position)
	ctx, cancel := context.WithCancel(t.Context())
	var beating sync.WaitGroup
	beating.Go(func() {
		for ctx.Err() == nil {
			ack, err := a.js.Publish(ctx, "sluice.audit.ingest.0.0", beat)
			if err != nil {
				return
			}
			position.CoveredSequence = ack.Sequence - 2
			value, err := pb.Marshal(position)
			if err == nil {
				_, err = kv.Put(ctx, "sink.0.position", value)
			}
			if err != nil {
				return
			}
		}
	})
	for range 5 {
		r := a.verify(equal, "")
		require.Empty(t, r.Limits)
	}
	cancel()
	beating.Wait()

	// Rows behind the lane are on their way.
	var b batch.Builder
	b.Add(batch.Row{Offset: 10}, batch.Fields{})
	var v batch.View
	b.View(&v, func(raw []byte) []byte { return raw })
	_, err = a.js.Publish(t.Context(), "sluice.audit.ingest.0.0", v.Append(nil))
	require.NoError(t, err)
	require.Contains(t, a.verify(equal, "").Limits[0], "rows are on their way to sink, lane 0: the counts of the stages were not held against each other")
}

func TestVerifyWhatKafkaNoLongerHas(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 10)
	a.run("DELETE FROM DB.audit WHERE n IN (2, 8)")
	offsets := kadm.Offsets{}
	offsets.AddOffset("audit", 0, 5, -1)
	_, err := a.admin.DeleteRecords(t.Context(), offsets)
	require.NoError(t, err)
	r := a.verify(different, "")
	require.Len(t, r.Differences, 2)
	require.EqualValues(t, -1, r.Differences[0].Partition)
	require.EqualValues(t, 8, r.Differences[1].Offset)
	require.Equal(t, "audit", r.Differences[1].Topic)
	require.Contains(t, r.Limits[0], "Kafka has partition 0 from offset 5 on only; rows of it were written from 0 on")
}

// Rows that went missing between two stages, though the table has all that the sink was given.
func TestVerifyStages(t *testing.T) {
	a := newAudited(t, "MergeTree ORDER BY id", 10)
	body, err := pb.Marshal(&eventv1.IngestPosition{Topic: "audit", NextOffset: 12, Tally: &eventv1.Tally{Records: 12, DeadLetters: 1, Rows: 11}})
	require.NoError(t, err)
	_, err = a.js.Publish(t.Context(), "sluice.audit.ingest.fence.0", body)
	require.NoError(t, err)
	r := a.verify(different, "")
	require.Equal(t, []string{
		"ingest has passed 11 rows on and sink has taken 10",
		"partition 0 of topic audit: the ingestor has passed 11 rows on and 10 of them were written or refused",
		"ingest has refused 1 events and its dead letters are 0",
	}, r.Findings)
	require.Empty(t, r.Differences)
}
