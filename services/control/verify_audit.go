package control

import (
	"fmt"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/batch"
	"sluice/libs/spec"
)

// sumOf adds the tallies of a stage up.
func (a *accounts) sumOf(stage string) (sum batch.Tally) {
	add := func(t batch.Tally) {
		sum.Records += t.Records
		sum.Tombstones += t.Tombstones
		sum.DeadLetters += t.DeadLetters
		sum.Duplicates += t.Duplicates
		sum.Rows += t.Rows
		sum.Late += t.Late
		sum.Dropped += t.Dropped
	}
	if stage == spec.StageIngest {
		for _, p := range a.partitions {
			add(p.tally)
		}
	}
	for _, l := range a.lanes[stage] {
		add(l.tally)
	}
	return sum
}

// audit tells which counts do not fit, and what is still on its way. It is a pure function.
func (a *accounts) audit(p *controlv1.Pipeline) (wrong []string, underway string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, one := range a.partitions {
		t := one.tally
		if kept := t.Tombstones + t.DeadLetters + t.Rows; kept != t.Records {
			say("%s: %d records came in, %d rows, %d dead letters and %d tombstones came out of them", one, t.Records, t.Rows, t.DeadLetters, t.Tombstones)
		}
	}
	for stage, lanes := range a.lanes {
		for lane, l := range lanes {
			switch t := l.tally; {
			case stage == spec.StageDedup && t.Records != t.Rows+t.Duplicates+t.DeadLetters:
				say("dedup, lane %d: of %d rows it has passed %d on, dropped %d as duplicates and refused %d", lane, t.Records, t.Rows, t.Duplicates, t.DeadLetters)
			case stage == spec.StageSink && a.sink.lanes[lane].GetPending() == nil && t.Records != t.Rows+t.DeadLetters:
				say("sink, lane %d: of %d rows it has written %d and refused %d", lane, t.Records, t.Rows, t.DeadLetters)
			}
			if l.covered < l.end && underway == "" {
				underway = fmt.Sprintf("rows are on their way to %s, lane %d", stage, lane)
			}
		}
	}
	if underway == "" && !a.sink.idle() {
		underway = "the sink is writing"
	}
	if underway != "" {
		return wrong, underway
	}
	stages := spec.Stages(p)
	for i, stage := range stages[1:] {
		before, now := a.sumOf(stages[i]), a.sumOf(stage)
		if before.Rows != now.Records {
			say("%s has passed %d rows on and %s has taken %d", stages[i], before.Rows, stage, now.Records)
		}
	}
	a.auditPartitions(p, say)
	for _, stage := range stages {
		want, got := a.sumOf(stage).DeadLetters, a.letters[stage]
		switch {
		case got < want && !a.lettersAll: // somebody has removed some
		case got != want:
			say("%s has refused %d events and its dead letters are %d", stage, want, got)
		}
	}
	return wrong, ""
}

// auditPartitions holds what was written of each partition against what came in.
func (a *accounts) auditPartitions(p *controlv1.Pipeline, say func(string, ...any)) {
	if a.gap != "" || p.GetJoin() != nil {
		return
	}
	for _, one := range a.partitions {
		out := a.ledger.Partition(one.partition)
		settled := out.Rows + out.Refused
		switch {
		case settled > one.tally.Rows, p.GetDedup() == nil && settled < one.tally.Rows:
			say("%s: the ingestor has passed %d rows on and %d of them were written or refused", one, one.tally.Rows, settled)
		}
	}
}

func (p *partitionAccount) String() string {
	if p.source != "" {
		return fmt.Sprintf("source %s, partition %d of topic %s", p.source, p.partition, p.topic)
	}
	return fmt.Sprintf("partition %d of topic %s", p.partition, p.topic)
}

// list puts the counts into the result.
func (v *verifier) list(a *accounts) {
	p := v.rec.GetSpec()
	for _, one := range a.partitions {
		out := &controlv1.VerifyPartition{
			Source: one.source, Topic: one.topic, Partition: one.partition, NextOffset: one.next,
			Records: one.tally.Records, Tombstones: one.tally.Tombstones, DeadLetters: one.tally.DeadLetters,
		}
		if p.GetJoin().GetLeft() == one.source { // of a join: what was written is counted with the left source; else both are empty
			l := a.ledger.Partition(one.partition)
			out.Written, out.Checksum, out.Refused = l.Rows, l.Checksum, l.Refused
		}
		if settled := out.Tombstones + out.DeadLetters + out.Written + out.Refused; p.GetJoin() == nil && settled < out.Records {
			out.Dropped = out.Records - settled
		}
		v.result.Partitions = append(v.result.Partitions, out)
	}
	for _, stage := range spec.Stages(p)[1:] {
		for lane, l := range a.lanes[stage] {
			out := &controlv1.VerifyLane{
				Stage: stage, Lane: uint32(lane), RowsIn: l.tally.Records, Duplicates: l.tally.Duplicates, DeadLetters: l.tally.DeadLetters, RowsOut: l.tally.Rows,
			}
			if stage == spec.StageSink {
				for _, written := range a.sink.lanes[lane].GetLedger().GetPartitions() {
					out.Checksum += written.GetChecksum()
				}
			}
			v.result.Lanes = append(v.result.Lanes, out)
		}
	}
}
