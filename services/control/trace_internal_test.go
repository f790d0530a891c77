package control

import (
	"cmp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/types/known/durationpb"

	controlv1 "sluice/gen/sluice/control/v1"
	stagev1 "sluice/gen/sluice/stage/v1"
	"sluice/libs/kafka"
	"sluice/libs/playground/kafka/kafkatest"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// What became of an event of a join that no row is known of.
func TestWhatBecameOfAnEventThatMetNobody(t *testing.T) {
	broker := kafkatest.StartFake(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	require.NoError(t, err)
	defer client.Close()
	_, err = kadm.NewClient(client).CreateTopics(t.Context(), 2, 1, nil, "orders", "users")
	require.NoError(t, err)
	const second = int64(1000)
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	produce := func(topic string, partition int32, at int64, value string) {
		t.Helper()
		r := &kgo.Record{Topic: topic, Partition: partition, Timestamp: base.Add(time.Duration(at) * time.Second), Value: []byte(value)}
		require.NoError(t, client.ProduceSync(t.Context(), r).FirstErr())
	}
	produce("users", 0, 10, `{"id":1,"name":"a"}`)
	produce("users", 1, 20, `{"id":1,"name":"b"}`)
	produce("users", 1, 20, `{"id":1,"name":"c"}`)
	produce("users", 0, 30, `{"id":2,"name":"x"}`)
	produce("users", 0, 40, `{"id":null,"name":"x"}`)
	produce("orders", 0, 10, `{"order_id":1}`)

	p, err := spec.Parse("join", []byte(`id: p
sources:
  orders: {kafka: {brokers: ["`+broker+`"], topic: orders}}
  users: {kafka: {brokers: ["`+broker+`"], topic: users}}
join: {left: orders, right: users, on: [{left: user_id, right: id}], kind: LOOKUP}
sink: {clickhouse: {addr: ["c:9000"], table: t}}
`))
	require.NoError(t, err)
	s := &Service{kafka: newClusters("test")}
	defer s.kafka.close()
	for _, c := range []struct {
		name, source      string
		partition         int32
		offset, watermark int64
		window            time.Duration
		left              controlv1.Join_Type
		outcome           controlv1.TracedEvent_Outcome
		text              string
	}{
		{"superseded", "users", 0, 0, 25, 0, 0, controlv1.TracedEvent_UNMATCHED, "a newer one of its key has taken its place, users 1:0, of "},
		{"to be superseded", "users", 0, 0, 15, 0, 0, controlv1.TracedEvent_PENDING, "until event time has passed the newer one of its key, users 1:0, of "},
		{"superseded at the same time", "users", 1, 0, 25, 0, 0, controlv1.TracedEvent_UNMATCHED, "a newer one of its key has taken its place, users 1:1, of "},
		{"the newest", "users", 1, 1, 3600, 0, 0, controlv1.TracedEvent_PENDING, "it is there for left rows to come, until a newer one of its key takes its place"},
		{"expired", "users", 0, 1, 100, time.Minute, 0, controlv1.TracedEvent_UNMATCHED, "it has expired"},
		{"not expired", "users", 0, 1, 80, time.Minute, 0, controlv1.TracedEvent_PENDING, "it is there for left rows to come"},
		{"a right row without a key", "users", 0, 2, 20, 0, 0, controlv1.TracedEvent_UNMATCHED, "it has no join key, is equal to nothing, and was dropped"},
		{"a left row without a key", "orders", 0, 0, 5, 0, 0, controlv1.TracedEvent_UNMATCHED, "it has no join key, is equal to nothing, and was dropped"},
		{"a left row without a key that comes out", "orders", 0, 0, 5, 0, controlv1.Join_LEFT, controlv1.TracedEvent_UNKNOWN, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := spec.WithDefaults(p)
			p.Join.Type = cmp.Or(c.left, controlv1.Join_INNER)
			if c.window > 0 {
				p.Join.Window = durationpb.New(c.window)
			}
			rec := &controlv1.PipelineRecord{Spec: p, Uid: "u", Schemas: []*controlv1.Schema{{Revision: 1}}}
			branch, _ := spec.BranchOf(p, c.source)
			plan, err := rows.NewBranchPlan(rec.Schemas[0], branch)
			require.NoError(t, err)
			tr := &tracer{service: s, rec: rec, branch: branch, plan: plan, wanted: map[place]*traced{}, out: &controlv1.TraceResponse{}, within: time.Minute, told: time.Now(),
				tell: func(*controlv1.TraceProgress) error { return nil }}
			require.NoError(t, s.kafka.use(t.Context(), branch.Spec.GetKafka(), func(cluster *kafka.Cluster) error {
				return tr.offset(t.Context(), cluster, &controlv1.TraceOffset{Partition: c.partition, Offset: c.offset})
			}))
			e := tr.wanted[place{c.partition, c.offset}]
			e.ingested = true
			mark := base.UnixMilli() + c.watermark*second
			join := &stagev1.UnitStatus{Stage: spec.StageJoin, Unit: uint32(e.joinLane), PipelineUid: "u", Position: 10, LaneWatermarkMs: &mark}
			tr.unmatched(t.Context(), e, []*stagev1.UnitStatus{join})
			require.Equal(t, c.outcome, e.event.GetOutcome())
			require.Contains(t, e.event.GetSteps()[len(e.event.GetSteps())-1].GetText(), c.text)
		})
	}
}
