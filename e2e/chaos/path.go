package main

import (
	"encoding/binary"
	"fmt"
	"strings"

	"sluice/libs/batch"
	"sluice/libs/fencedlog"
)

// logsOf are the logs that a pipeline with these stages has, in the order of the data's way.
func logsOf(stages []string) (logs []string) {
	for _, stage := range stages {
		switch stage {
		case Ingestor:
			logs = append(logs, fencedlog.Ingest)
		case Dedup:
			logs = append(logs, fencedlog.Dedup)
		case Join:
			logs = append(logs, fencedlog.Join)
		}
	}
	return logs
}

// Path tells where a record of Kafka was seen. source is that of a join.
func (t *Tap) Path(source string, p Place) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, stage := range t.logs {
		for _, m := range t.messages[stage] {
			for _, row := range m.find(source, p) {
				out = append(out, fmt.Sprintf("%s log: %s sequence %d, lane %s, writer %s, position %s, input %d: %s",
					stage, m.stored.Format(clock), m.sequence, m.lane, m.writer, m.position, m.input, row))
				if stage == t.logs[len(t.logs)-1] {
					out = append(out, t.blocksOf(m)...)
				}
			}
		}
	}
	if len(out) == 0 {
		out = append(out, "seen in no log")
	}
	return out
}

// blocksOf are the sink's positions that name the block which a message was in.
func (t *Tap) blocksOf(m tapped) (out []string) {
	subject := ".sink." + m.lane + ".position"
	for _, b := range t.blocks {
		if strings.Contains(b, subject) && covers(b, m.sequence) {
			out = append(out, "  sink: "+b)
		}
	}
	return out
}

// find describes the rows of the message that were made of a record.
func (m tapped) find(source string, p Place) (rows []string) {
	if len(m.origins) > 0 {
		return m.findOrigin(source, p)
	}
	if m.source != source || m.partition != p.Partition || p.Offset < m.first {
		return nil
	}
	at, rest := m.first, m.rows
	for row := 0; len(rest) > 0; row++ {
		code, n := binary.Uvarint(rest)
		rest = rest[n:]
		if at += int64(code >> 1); at == p.Offset {
			return []string{fmt.Sprintf("row %d, selected %t", row, code&1 != 0)}
		}
		if at > p.Offset {
			break
		}
	}
	return nil
}

func (m tapped) findOrigin(source string, p Place) (rows []string) {
	v := batch.View{Origins: m.origins}
	for row := range len(m.origins) / batch.OriginBytes {
		o := v.Origin(row)
		left, right := Place{o.LeftPartition, o.LeftOffset}, nowhere
		if o.RightPartition != batch.NoRight {
			right = Place{o.RightPartition, o.RightOffset}
		}
		if source == leftTopic.Name && left == p || source == rightTopic.Name && right == p {
			rows = append(rows, fmt.Sprintf("row %d, %v", row, Pair{left, right}))
		}
	}
	return rows
}

// covers tells whether the block that a position names holds a sequence.
func covers(position string, sequence uint64) bool {
	_, block, ok := strings.Cut(position, "sending ")
	var first, last uint64
	if n, _ := fmt.Sscanf(block, "%d-%d", &first, &last); !ok || n != 2 {
		return false
	}
	return first <= sequence && sequence <= last
}
