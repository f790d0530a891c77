// Package spec is the pipeline specification as a user writes it: reading it (YAML or JSON), saying
// everything that is wrong with it at once, filling in its defaults, and the order of its stages.
//
// Guaranteed: an unknown or repeated key is an error with line and column; Validate reports all
// problems, each with field, value and remedy; WithDefaults is idempotent and changes no argument.
// Not looked at here: whether the brokers, the topic, the server and the table exist and fit, nor the
// settings of inserts, which package clickhouse knows. That needs the network and is the control
// service's part.
package spec

import (
	"slices"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Names of the stages, as they appear in logs, statuses and dead letters.
const (
	StageIngest = "ingest"
	StageDedup  = "dedup"
	StageJoin   = "join"
	StageSink   = "sink"
)

// Stages returns the stages of a pipeline in the order of the events' way. A stage that the pipeline
// does not use is left out. Where one source of a join has dedup, the other passes through that stage, too.
func Stages(p *controlv1.Pipeline) []string {
	stages := []string{StageIngest}
	if slices.ContainsFunc(Branches(p), func(b Branch) bool { return b.Dedup != nil }) {
		stages = append(stages, StageDedup)
	}
	if p.GetJoin() != nil {
		stages = append(stages, StageJoin)
	}
	return append(stages, StageSink)
}

// Upstream returns the stage whose log the given stage reads; "" for ingest, which reads Kafka, and
// for a stage that is not in the pipeline.
func Upstream(p *controlv1.Pipeline, stage string) string {
	before := ""
	for _, s := range Stages(p) {
		if s == stage {
			return before
		}
		before = s
	}
	return ""
}
