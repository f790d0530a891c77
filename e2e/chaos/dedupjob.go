package main

import (
	"context"
	"fmt"
)

const (
	topic      = "events"
	partitions = 4
)

// dedupJob is a pipeline that drops duplicates.
type dedupJob struct {
	feed *Feed
	// eventTime: the window goes by a field of the event, which moves on faster than the clock, but not by as much as the window.
	eventTime bool
}

func (*dedupJob) Stages() []string { return []string{Ingestor, Dedup, Sink} }

func (*dedupJob) Topics() []Topic { return []Topic{{topic, partitions}} }

func (*dedupJob) Columns() string {
	return `id UInt64, n UInt64, text String, at_partition Int32, at_offset Int64`
}

func (j *dedupJob) Spec(kafka, clickhouse string, with Settings) string {
	time := ""
	if j.eventTime {
		time = ", time: at"
	}
	return fmt.Sprintf(`
id: %s
source: {kafka: {brokers: ["%s"], topic: %s}}
dedup: {key: [id], window: %s%s}
columns: [{name: at_partition, from: $partition}, {name: at_offset, from: $offset}]
sink: {clickhouse: {addr: ["%s"], table: events}}
batch: {max_delay: 100ms}
lanes: %d
`, pipeline, kafka, topic, seconds(with.Window), time, clickhouse, with.Lanes)
}

func (j *dedupJob) Next() Record {
	e := j.feed.Next()
	return Record{topic, e.Partition(partitions), e.Key(), e.JSON()}
}

// Last is empty: dedup decides at once.
func (*dedupJob) Last() []Record { return nil }

func (*dedupJob) Truth(ctx context.Context, kafka string, sent uint64) (Truth, error) {
	events, err := readEvents(ctx, kafka, sent)
	if err != nil {
		return nil, err
	}
	return &dedupTruth{events, kafka}, nil
}

// dedupTruth is what must be in the table of a dedupJob: the first occurrences.
type dedupTruth struct {
	*Events
	kafka string
}

func (t *dedupTruth) Counts() Counts {
	return Counts{RecordsIn: t.Events.Records, RowsOut: t.IDs(), Duplicates: t.Events.Records - t.IDs()}
}

func (t *dedupTruth) Records() string {
	return fmt.Sprintf("records %d (%d twice by the producer's retries), different events %d", t.Events.Records, t.Twice, t.IDs())
}

func (t *dedupTruth) Compare(ctx context.Context, table *Table) (*Verdict, error) {
	v := newDedupVerdict(t.Events)
	v.sightings = func(ctx context.Context, ids map[uint64]bool) (map[uint64][]Sighting, error) {
		return copies(ctx, t.kafka, ids)
	}
	if err := table.Each(ctx, v.Add); err != nil {
		return nil, err
	}
	v.Finish()
	return v.Verdict, nil
}
