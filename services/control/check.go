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
	start    *controlv1.StartOffsets
	topicID  [16]byte
	warnings []string
	// create is the columns of a table that is to be made; nil when it is there.
	create []*controlv1.Column
}

// topicSide and tableSide are what the two servers say.
type topicSide struct {
	topic       kafka.Topic
	start       *controlv1.StartOffsets
	samples     [][]byte
	sampled     bool // false: nothing was asked
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
// everything that is wrong. start says whether the offsets where to begin are wanted.
func (s *Service) check(ctx context.Context, p *controlv1.Pipeline, start bool) (*checked, error) {
	p = spec.WithDefaults(p)
	var problems []spec.Problem
	var wrong *spec.Error
	switch err := spec.Validate(p); {
	case errors.As(err, &wrong):
		problems = wrong.Problems
	case err != nil:
		return nil, err
	}
	var topic topicSide
	var table tableSide
	var sides sync.WaitGroup
	// What is wrong with one side's fields does not keep the other side from being asked.
	if !concerns(problems, "source") && p.GetSource().GetKafka() != nil {
		sides.Go(func() { topic = s.askTopic(ctx, p.Source.Kafka, start) })
	}
	if !concerns(problems, "sink") && p.GetSink().GetClickhouse() != nil {
		sides.Go(func() { table = s.askTable(ctx, p.Sink.Clickhouse) })
	}
	sides.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("check pipeline %q: %w", p.Id, err)
	}
	problems = append(append(problems, topic.problems...), table.problems...)

	c := &checked{spec: p, table: table.table, start: topic.start, topicID: topic.topic.ID}
	c.warnings = append(spec.Warnings(p), topic.warnings...)
	if c.table != nil && !concerns(problems, "columns") {
		fields, err := look(pathsOf(p, c.table), topic.samples)
		if err != nil {
			return nil, fmt.Errorf("read the sample of topic %s: %w", p.Source.Kafka.Topic, err)
		}
		wrong, err := c.resolve(fields, topic.sampled)
		if err != nil {
			return nil, fmt.Errorf("read the sample of topic %s: %w", p.Source.Kafka.Topic, err)
		}
		problems = append(problems, wrong...)
	}
	if err := verdict(problems, append(topic.unreachable, table.unreachable...)); err != nil {
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

func (s *Service) askTopic(ctx context.Context, source *controlv1.KafkaSource, start bool) (side topicSide) {
	ctx, cancel := context.WithTimeout(ctx, s.config.ProbeTimeout)
	defer cancel()
	err := s.kafka.use(ctx, source, func(c *kafka.Cluster) (err error) {
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
			side.warnings = append(side.warnings, fmt.Sprintf("no events of topic %s could be read to compare their fields with the columns: %v", source.Topic, err))
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
		side.problems = append(side.problems, spec.Problem{Field: config.Field, What: config.Err.Error(), Remedy: "mend it on the machines of the services"})
	case errors.Is(err, kafka.ErrNoTopic):
		side.problems = append(side.problems, spec.Problem{Field: "source.kafka.topic", Value: source.Topic, What: "does not exist on this cluster",
			Remedy: "create the topic first, or correct its name"})
	case kafka.Permanent(err):
		side.problems = append(side.problems, spec.Problem{Field: "source.kafka", What: "Kafka refuses: " + err.Error()})
	default:
		side.unreachable = append(side.unreachable, "Kafka cannot be asked: "+err.Error())
	}
	return side
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
	side.problems = settingsProblems(sink)
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

func settingsProblems(sink *controlv1.ClickHouseSink) []spec.Problem {
	err := clickhouse.CheckSettings(sink.GetSettings())
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
