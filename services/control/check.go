package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
	"sluice/libs/kafka"
	"sluice/libs/spec"
)

const (
	// sampleSize is how many events are looked at for fields and types.
	sampleSize = 100
	// sampleWait is how long a check waits for a first event in an empty topic.
	sampleWait = time.Second
)

// checked is a specification held against its topic and table.
type checked struct {
	spec     *controlv1.Pipeline // with defaults
	table    *clickhouse.Table
	columns  []*controlv1.SchemaColumn
	topics   []topicSide // one a branch
	warnings []string
	// earlier is the layout before an update: where a column came from it still does.
	earlier []*controlv1.SchemaColumn
	// create is the columns of a table that is to be made; nil when it is there.
	create []clickhouse.Column
}

// topicSide and tableSide are what the servers say.
type topicSide struct {
	branch      spec.Branch
	topic       kafka.Topic
	start       *controlv1.StartOffsets
	samples     [][]byte
	sampled     bool    // false: nothing was asked
	fields      *fields // what the samples show
	problems    []spec.Problem
	unreachable []string
	warnings    []string
}

type tableSide struct {
	table       *clickhouse.Table // nil when it could not be asked
	problems    []spec.Problem
	unreachable []string
}

// check holds a specification against the live topic and table. It changes nothing. The error has
// everything that is wrong. now is the pipeline that is to be updated; without one the offsets where to begin are wanted, too.
func (s *Service) check(ctx context.Context, p *controlv1.Pipeline, now *controlv1.PipelineRecord) (*checked, error) {
	p = spec.WithDefaults(p)
	var problems []spec.Problem
	var wrong *spec.Error
	switch err := spec.Validate(p); {
	case errors.As(err, &wrong):
		problems = wrong.Problems
	case err != nil:
		return nil, err
	}
	branches := spec.Branches(p)
	topics := make([]topicSide, len(branches))
	var table tableSide
	var sides sync.WaitGroup
	// What is wrong with one side's fields does not keep the other side from being asked.
	for i, b := range branches {
		if topics[i].branch = b; !concerns(problems, b.Field()) && b.Spec.GetKafka() != nil {
			sides.Go(func() { topics[i] = s.askTopic(ctx, b, now == nil) })
		}
	}
	if !concerns(problems, "sink") && p.GetSink().GetClickhouse() != nil {
		sides.Go(func() { table = s.askTable(ctx, p.Sink.Clickhouse) })
	}
	sides.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("check pipeline %q: %w", p.Id, err)
	}
	c := &checked{spec: p, table: table.table, topics: topics, warnings: spec.Warnings(p)}
	if n := len(now.GetSchemas()); n > 0 {
		c.earlier = now.Schemas[n-1].GetColumns()
	}
	var unreachable []string
	for _, t := range topics {
		problems, unreachable = append(problems, t.problems...), append(unreachable, t.unreachable...)
		c.warnings = append(c.warnings, t.warnings...)
	}
	problems = append(problems, table.problems...)
	if c.table != nil && len(branches) > 0 && !concerns(problems, "columns") && !concerns(problems, "join") && !concerns(problems, "sources") {
		wrong, err := c.resolve()
		if err != nil {
			return nil, err
		}
		problems = append(problems, wrong...)
	}
	if err := verdict(problems, append(unreachable, table.unreachable...)); err != nil {
		return nil, err
	}
	return c, nil
}

func concerns(problems []spec.Problem, field string) bool {
	for _, p := range problems {
		if p.Field == field || strings.HasPrefix(p.Field, field+".") || strings.HasPrefix(p.Field, field+"[") {
			return true
		}
	}
	return false
}

func (s *Service) askTopic(ctx context.Context, b spec.Branch, start bool) (side topicSide) {
	side.branch = b
	source, field := b.Spec.GetKafka(), b.Field()+".kafka"
	ctx, cancel := context.WithTimeout(ctx, s.config.ProbeTimeout)
	defer cancel()
	err := s.kafka.useOf(ctx, b, func(c *kafka.Cluster) (err error) {
		if side.topic, err = c.Topic(ctx, source.Topic); err != nil {
			return err
		}
		if start {
			if side.start, err = startOffsets(ctx, c, source, side.topic); err != nil {
				return err
			}
		}
		messages, err := c.Sample(ctx, source.Topic, sampleSize, sampleWait)
		if err != nil {
			// The pipeline can do without; whoever may describe a topic but not read it is told here.
			side.warnings = append(side.warnings, fmt.Sprintf("no events of topic %s could be read to compare their fields with the columns: %s", source.Topic, fieldsOfSource(b.Source, err.Error())))
			return nil
		}
		side.sampled = true
		for _, m := range messages {
			if m.Value != nil {
				side.samples = append(side.samples, m.Value)
			}
		}
		return nil
	})
	var config *kafka.ConfigError
	switch {
	case err == nil:
	case errors.As(err, &config):
		side.problems = append(side.problems, spec.Problem{Field: b.Field() + strings.TrimPrefix(config.Field, "source"), What: config.Err.Error(), Remedy: "mend it on the machines of the services"})
	case errors.Is(err, kafka.ErrNoTopic):
		side.problems = append(side.problems, spec.Problem{Field: field + ".topic", Value: source.Topic, What: "does not exist on this cluster",
			Remedy: "create the topic first, or correct its name"})
	case kafka.Permanent(err):
		side.problems = append(side.problems, spec.Problem{Field: field, What: "Kafka refuses: " + err.Error()})
	default:
		side.unreachable = append(side.unreachable, "Kafka cannot be asked"+of(b)+": "+err.Error())
	}
	return side
}

// of names a branch in a message; "" without a join.
func of(b spec.Branch) string {
	if b.Source == "" {
		return ""
	}
	return " for " + b.Field()
}

// startOffsets makes explicit offsets of LATEST and of a time, once: the pipeline then begins there,
// whenever its partitions are first read. EARLIEST needs none.
func startOffsets(ctx context.Context, c *kafka.Cluster, source *controlv1.KafkaSource, topic kafka.Topic) (*controlv1.StartOffsets, error) {
	at, err := spec.ParseStart(source.Start)
	if err != nil {
		return nil, err
	}
	var offsets map[int32]int64
	switch {
	case at.Latest:
		offsets, err = c.EndOffsets(ctx, source.Topic, source.Isolation)
	case !at.Time.IsZero():
		offsets, err = c.OffsetsAt(ctx, source.Topic, at.Time)
	default:
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &controlv1.StartOffsets{TopicId: topic.ID[:], Offsets: offsets}, nil
}

func (s *Service) askTable(ctx context.Context, sink *controlv1.ClickHouseSink) (side tableSide) {
	ctx, cancel := context.WithTimeout(ctx, s.config.ProbeTimeout)
	defer cancel()
	side.problems = settingsProblems(clickhouse.CheckSettings(sink.GetSettings()))
	table, err := clickhouse.Describe(ctx, sink)
	if err != nil {
		problem, unreachable := refused(err)
		if unreachable {
			side.unreachable = append(side.unreachable, "ClickHouse cannot be asked: "+problem.What)
		} else {
			side.problems = append(side.problems, problem)
		}
		return side
	}
	if len(side.problems) == 0 {
		err = clickhouse.TrySettings(ctx, sink)
	}
	if err != nil {
		if _, unreachable := refused(err); unreachable {
			side.unreachable = append(side.unreachable, "ClickHouse cannot be asked: "+err.Error())
			return side
		}
		side.problems = settingsProblems(err)
	}
	side.table = table
	switch {
	case !table.Exists && !sink.CreateTable:
		side.problems = append(side.problems, spec.Problem{Field: "sink.clickhouse.table", Value: table.Name.String(), What: "does not exist",
			Remedy: "create it, set create_table: true, or correct the name"})
		side.table = nil
	case strings.HasSuffix(table.Engine, "View") && table.Engine != "MaterializedView":
		side.problems = append(side.problems, spec.Problem{Field: "sink.clickhouse.table", Value: table.Name.String(), What: "is a view, which takes no inserts",
			Remedy: "name a table"})
		side.table = nil
	}
	return side
}

func settingsProblems(err error) []spec.Problem {
	if err == nil {
		return nil
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var problems []spec.Problem
	for _, err := range all {
		p := spec.Problem{Field: "sink.clickhouse.settings", What: err.Error()}
		var config *clickhouse.ConfigError
		if errors.As(err, &config) {
			p = spec.Problem{Field: config.Field, What: config.Err.Error()}
		}
		problems = append(problems, p)
	}
	return problems
}

// refused tells what a user can mend from a server that cannot be asked now.
func refused(err error) (problem spec.Problem, unreachable bool) {
	var config *clickhouse.ConfigError
	if errors.As(err, &config) {
		return spec.Problem{Field: config.Field, What: config.Err.Error()}, false
	}
	problem = spec.Problem{Field: "sink.clickhouse", What: "ClickHouse refuses: " + err.Error()}
	var answer *driver.Exception
	if !errors.As(err, &answer) {
		return spec.Problem{What: err.Error()}, true
	}
	switch answer.Code {
	case 192, 193, 194, 516: // unknown user, wrong or required password, authentication failed
		problem.Field, problem.Remedy = "sink.clickhouse.username", "correct username and password"
	case 497: // access denied
		problem.Remedy = "grant the user what the statement needs"
	case 62, 44, 47, 50, 36, 42, 43, 70, 80, 450, 455, 549: // what a statement cannot be: syntax, types, arguments, engine
		problem.Remedy = "correct the columns"
	default:
		return spec.Problem{What: err.Error()}, true
	}
	return problem, false
}
