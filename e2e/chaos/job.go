package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Pipelines under test.
const (
	JobDedup = "dedup"
	JobJoin  = "join"
)

// Topic is one that the pipeline reads.
type Topic struct {
	Name       string
	Partitions int32
}

// Record is what the producer sends.
type Record struct {
	Topic      string
	Partition  int32
	Key, Value []byte
}

// Job is a pipeline under test, the events for it, and what must come of them.
type Job interface {
	// Stages are those that it needs, from Kafka to ClickHouse.
	Stages() []string
	Topics() []Topic
	// Columns of the table.
	Columns() string
	Spec(kafka, clickhouse string, with Settings) string
	// Next is the next record. The same seed gives the same ones.
	Next() Record
	// Last ends the sequence; after these, and whatever was sent before them, all is decided.
	Last() []Record
	// Truth reads what Kafka holds. sent is how many records were handed over and acknowledged.
	Truth(ctx context.Context, kafka string, sent uint64) (Truth, error)
}

// Truth is what Kafka holds, and what therefore must be in the table.
type Truth interface {
	// Counts are what the status must say in the end.
	Counts() Counts
	// Records is what there is to say of them.
	Records() string
	// Compare looks at every row of the table.
	Compare(ctx context.Context, t *Table) (*Verdict, error)
}

// Counts of a pipeline, as its status tells them.
type Counts struct {
	RecordsIn   uint64 `json:"records_in"`
	Duplicates  uint64 `json:"duplicates"`
	DeadLetters uint64 `json:"dead_letters"`
	RowsOut     uint64 `json:"rows_out"`
	Matched     uint64 `json:"matched"`
	Unmatched   uint64 `json:"unmatched"`
	Late        uint64 `json:"late"`
	Dropped     uint64 `json:"dropped"`
}

func (c Counts) String() string {
	return fmt.Sprintf("%d records, %d duplicates, %d dead letters, %d rows, %d matched, %d unmatched, %d late, %d dropped",
		c.RecordsIn, c.Duplicates, c.DeadLetters, c.RowsOut, c.Matched, c.Unmatched, c.Late, c.Dropped)
}

// newJob makes the job of a name.
func newJob(name string, kind joinKind, eventTime bool, seed uint64, rate int) (Job, error) {
	jobs := map[string]func() Job{
		JobDedup: func() Job { return &dedupJob{newFeed(seed), eventTime} },
		JobJoin:  func() Job { return &joinJob{newJoinFeed(seed, rate), kind} },
	}
	if jobs[name] == nil {
		return nil, fmt.Errorf("pipeline %q: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(jobs)), ", "))
	}
	return jobs[name](), nil
}
