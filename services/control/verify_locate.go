package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/kafka"
	"sluice/libs/native"
	"sluice/libs/rows"
	"sluice/libs/spec"
)

// locateBatch is how many records are made into rows and hashed at once.
const locateBatch = 1024

// differences lists the rows that are missing or too many, with the records that they were made of.
func (v *verifier) differences(ctx context.Context, r *reading) error {
	var list []*controlv1.VerifyDifference
	for kind, hashes := range map[controlv1.VerifyDifference_Kind]map[uint64]uint64{
		controlv1.VerifyDifference_MISSING: r.missing, controlv1.VerifyDifference_EXTRA: r.extra,
	} {
		for h, n := range hashes {
			d := &controlv1.VerifyDifference{Kind: kind, Hash: h, Count: n, Partition: -1, Offset: -1}
			if kind == controlv1.VerifyDifference_EXTRA {
				d.Row = r.shown[h]
			}
			list = append(list, d)
		}
	}
	byHash := func(a, b *controlv1.VerifyDifference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Hash, b.Hash))
	}
	slices.SortFunc(list, byHash)
	if len(list) > v.locate {
		list, v.result.MoreDifferences = list[:v.locate], true
	}
	v.result.Differences = list
	if len(list) == 0 {
		return nil
	}
	if v.rec.GetSpec().GetJoin() != nil {
		v.limit("rows of a join are not looked up in Kafka, since two records make one")
		return nil
	}
	l := &locator{v: v, wanted: map[uint64]*controlv1.VerifyDifference{}}
	for _, d := range list {
		l.wanted[d.Hash] = d
	}
	source := v.rec.GetSpec().GetSource().GetKafka()
	err := v.service.kafka.use(ctx, source, func(c *kafka.Cluster) error { return l.search(ctx, c, source, r) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil { // what is known so far is worth being told
		v.limit("not all rows could be looked up in Kafka: %v", err)
	}
	slices.SortFunc(list, func(a, b *controlv1.VerifyDifference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset), byHash(a, b))
	})
	return nil
}

// locator looks for the records that differing rows were made of: it makes rows of what Kafka still has, as the ingestor
// does, and hashes them as the sink does.
type locator struct {
	v      *verifier
	wanted map[uint64]*controlv1.VerifyDifference // by hash, until it is found
	read   uint64
}

// maker makes rows of records by one revision of the schema.
type maker struct {
	parser  *rows.Parser
	all     []*native.Column // of the schema
	hashing []*native.Column // those of all that are hashed
	names   []string
	offsets []int64
	hashes  []uint64
}

func (l *locator) search(ctx context.Context, c *kafka.Cluster, source *controlv1.KafkaSource, r *reading) error {
	makers, err := makersOf(l.v.rec)
	if err != nil {
		return err
	}
	earliest, err := c.EarliestOffsets(ctx, source.GetTopic())
	if err != nil {
		return err
	}
	ends, err := c.EndOffsets(ctx, source.GetTopic(), source.GetIsolation())
	if err != nil {
		return err
	}
	for _, partition := range r.sum.IDs() {
		p := r.sum.Partition(partition)
		end, ok := ends[partition]
		from, to := max(p.First, earliest[partition]), min(p.Next, end)
		if !ok || from >= to && p.First < p.Next {
			l.v.limit("the records of partition %d that were written, offsets %d to %d, are not in Kafka any more", partition, p.First, p.Next-1)
			continue
		}
		if from > p.First {
			l.v.limit("Kafka has partition %d from offset %d on only; rows of it were written from %d on", partition, from, p.First)
		}
		for m, err := range c.Records(ctx, source.GetTopic(), partition, from, to, source.GetIsolation()) {
			if err != nil {
				return err
			}
			if l.read++; l.read%progressEvery == 1 {
				if err := l.v.step("looking the rows up in Kafka", l.read, 0); err != nil {
					return err
				}
			}
			if m.Value == nil {
				continue
			}
			record := rows.Record{
				Topic: m.Topic, Partition: m.Partition, Offset: m.Offset, TimestampMS: m.Timestamp.UnixMilli(), Key: m.Key, Value: m.Value,
			}
			for _, h := range m.Headers {
				record.Headers = append(record.Headers, rows.Header{Key: h.Key, Value: h.Value})
			}
			for _, made := range makers {
				if made.add(record) {
					l.match(made, source.GetTopic(), partition)
				}
			}
			if len(l.wanted) == 0 {
				return nil
			}
		}
		for _, made := range makers {
			l.match(made, source.GetTopic(), partition)
		}
	}
	return nil
}

// makersOf are the makers of rows of every layout that the pipeline has had, newest first.
func makersOf(rec *controlv1.PipelineRecord) ([]*maker, error) {
	branch := spec.Branches(rec.GetSpec())[0]
	var makers []*maker
	var seen []*controlv1.Schema
	for _, schema := range slices.Backward(rec.GetSchemas()) {
		layout := &controlv1.Schema{Columns: schema.GetColumns()}
		if slices.ContainsFunc(seen, func(s *controlv1.Schema) bool { return proto.Equal(s, layout) }) {
			continue
		}
		seen = append(seen, layout)
		plan, err := rows.NewBranchPlan(schema, branch)
		if err != nil {
			return nil, fmt.Errorf("schema revision %d: %w", schema.GetRevision(), err)
		}
		m := &maker{parser: rows.NewParser(plan), all: plan.NewColumns()}
		for i, c := range spec.Columns(schema, branch.Source) {
			if _, why := hashed(c); why == "" {
				m.names, m.hashing = append(m.names, c.GetName()), append(m.hashing, m.all[i])
			}
		}
		makers = append(makers, m)
	}
	return makers, nil
}

// add makes a row of a record, if it can be one, and tells whether there are enough to be looked at.
func (m *maker) add(record rows.Record) (full bool) {
	if _, reject := m.parser.Parse(record); reject != nil {
		return false
	}
	if reject := m.parser.AppendTo(m.all); reject != nil {
		return false
	}
	m.offsets = append(m.offsets, record.Offset)
	return len(m.offsets) == locateBatch
}

// match hashes the rows that were made and empties the maker. Of records that make equal rows the first is named.
func (l *locator) match(m *maker, topic string, partition int32) {
	m.hashes = native.HashRows(m.hashes[:0], len(m.offsets), m.names, m.hashing)
	for i, h := range m.hashes {
		if d := l.wanted[h]; d != nil {
			d.Topic, d.Partition, d.Offset = topic, partition, m.offsets[i]
			delete(l.wanted, h)
		}
	}
	m.offsets = m.offsets[:0]
	for _, c := range m.all {
		c.Reset()
	}
}
