package main

import (
	"context"
	"fmt"
	"time"
)

var (
	leftTopic  = Topic{"orders", 4}
	rightTopic = Topic{"users", 3}
)

const (
	// joinWindow and joinGrace are in event time, which goes on many times as fast as the clock (see pace).
	joinWindow = time.Minute
	// joinGrace is longer than Kafka may be away, restart included (see startWait). While it is, nothing new can be read: event time goes
	// on with the clock as for any idle partition, and what the producer holds back meanwhile is out of order by as much. Nothing else
	// makes rows late: a partition whose ingestor is dead does not become idle, since only what the log says counts.
	joinGrace = 5 * time.Minute
	// joinIdle is longer still, so that no partition is left out while others get their events first.
	joinIdle = joinWindow + joinGrace
	// joinMemory of a lane is the least there can be, and less than what waits: some of it is on disk.
	joinMemory = 1 << 20
)

// joinJob is a pipeline with two sources. Duplicates of the left one are dropped by another key than the join's, so that dedup takes its batches
// apart; the right one's are rows like any other, or dropped by the join's key.
type joinJob struct {
	feed *JoinFeed
	kind joinKind
}

func (*joinJob) Stages() []string { return []string{Ingestor, Dedup, Join, Sink} }

func (*joinJob) Topics() []Topic { return []Topic{leftTopic, rightTopic} }

func (*joinJob) Columns() string {
	return `id UInt64, n UInt64, text String, user Nullable(String), at DateTime64(3, 'UTC'), left_partition Int32, left_offset Int64,
		right_n Nullable(UInt64), right_text String DEFAULT 'nobody', right_at Nullable(DateTime64(3, 'UTC')),
		right_partition Int32 DEFAULT -1, right_offset Int64 DEFAULT -1`
}

func (j *joinJob) Spec(kafka, clickhouse string, with Settings) string {
	return fmt.Sprintf(`
id: %[1]s
sources:
  orders: {kafka: {brokers: ["%[2]s"], topic: orders}, time: at, dedup: {key: [id], window: %[6]s}}
  users: {kafka: {brokers: ["%[2]s"], topic: users}, time: at%[5]s}
join: {left: orders, right: users, on: [{left: user, right: name}], %[4]s}
columns:
- {name: id, from: orders.id}
- {name: n, from: orders.n}
- {name: text, from: orders.text}
- {name: user, from: orders.user}
- {name: at, from: orders.at}
- {name: left_partition, from: orders.$partition}
- {name: left_offset, from: orders.$offset}
- {name: right_n, from: users.n}
- {name: right_text, from: users.text}
- {name: right_at, from: users.at}
- {name: right_partition, from: users.$partition}
- {name: right_offset, from: users.$offset}
sink: {clickhouse: {addr: ["%[3]s"], table: events}}
batch: {max_delay: 100ms}
lanes: %[7]d
`, pipeline, kafka, clickhouse, j.kind.join(), j.kind.rightDedup(with), seconds(with.Window), with.Lanes)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int(d.Seconds())) }

func (j *joinJob) Next() Record { return j.feed.Next().Record() }

// Last is an event in each partition, so late that none before it can meet anybody any more. They have no join key: they wait for nobody.
func (j *joinJob) Last() (out []Record) {
	for _, t := range j.Topics() {
		for p := range t.Partitions {
			r := j.feed.Last(t == rightTopic).Record()
			r.Partition = p
			out = append(out, r)
		}
	}
	return out
}

func (j *joinJob) Truth(ctx context.Context, kafka string, sent uint64) (Truth, error) {
	return readSides(ctx, j.kind, kafka, sent)
}
