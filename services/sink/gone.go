package sink

import (
	"context"
	"errors"
	"time"

	"github.com/ClickHouse/ch-go/proto"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/clickhouse"
)

// A column can be taken out of the table and then out of the pipeline while rows that were read before wait in the logs, and one block may be pending. Their
// values of it have nowhere to go. A column that has another name now is written under that.

// errGone says that columns of a block are in neither the table nor the pipeline any more, and that it is to be sent without them.
var errGone = errors.New("columns are gone from the table and from the pipeline")

// describeTimeout bounds a look at the table.
const describeTimeout = 10 * time.Second

// present leaves out the columns of a block that are gone, and names the others as they are named now.
func (l *layout) present(columns []proto.InputColumn) []proto.InputColumn {
	if len(l.gone) == 0 {
		return columns
	}
	out := make([]proto.InputColumn, 0, len(columns))
	for _, c := range columns {
		switch now, ok := l.gone[c.Name]; {
		case !ok:
			out = append(out, c)
		case now != "":
			c.Name = now
			out = append(out, c)
		}
	}
	return out
}

// kept is some rows of a group, counted from one of them on, as they are to be sent.
func (s *sending) kept(g *group, from int, rows []int) ([]proto.InputColumn, error) {
	keep := make([]byte, (g.Rows+7)/8)
	for _, row := range rows {
		at := from + row
		keep[at/8] |= 1 << (at % 8)
	}
	columns, err := g.kept(s.layout, keep)
	return s.layout.present(columns), err
}

// missing looks, after the table has refused a block for its columns, which of them are gone for good. It tells whether there is anything new.
func (s *sending) missing(err error) bool {
	if clickhouse.Classify(err) != clickhouse.Schema {
		return false
	}
	ctx, cancel := context.WithTimeout(s.working, describeTimeout)
	defer cancel()
	table, err := clickhouse.Describe(ctx, s.lane.sink())
	if err != nil || !table.Exists {
		return false
	}
	schemas := s.lane.record.GetSchemas()
	gone := s.layout.goneFrom(table, schemas[len(schemas)-1].GetColumns())
	if len(gone) == 0 {
		return false
	}
	if s.layout.gone == nil {
		s.layout.gone = map[string]string{}
	}
	for name, now := range gone {
		s.layout.gone[name] = now
		s.lane.log.Warn("a column is gone from the table and from the pipeline: rows that were read before are written without it",
			"lane", s.lane.index, "column", name, "under", now, "revision", s.layout.revision)
	}
	return true
}

// goneFrom returns the columns that the table does not have and the pipeline does not write any more, each with the one that has taken its place: of
// the same field and type; "" when there is none. Not all can be gone.
func (l *layout) goneFrom(table *clickhouse.Table, current []*controlv1.SchemaColumn) map[string]string {
	taken, wanted := map[string]bool{}, map[string]bool{}
	for _, c := range l.columns {
		taken[c.GetName()] = true
	}
	for _, c := range current {
		wanted[c.GetName()] = true
	}
	gone, left := map[string]string{}, 0
	for _, c := range l.columns {
		if _, ok := l.gone[c.GetName()]; ok {
			continue
		}
		if _, there := table.Column(c.GetName()); there || wanted[c.GetName()] {
			left++
			continue
		}
		gone[c.GetName()] = ""
		for _, now := range current {
			if _, there := table.Column(now.GetName()); there && !taken[now.GetName()] && now.GetFrom() == c.GetFrom() && now.GetType() == c.GetType() {
				gone[c.GetName()], taken[now.GetName()] = now.GetName(), true
				left++
				break
			}
		}
	}
	if left == 0 {
		return nil
	}
	return gone
}
