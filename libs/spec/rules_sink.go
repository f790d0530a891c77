package spec

import (
	"fmt"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
)

const sinkField = "sink.clickhouse"

func (c *checks) clickhouse(ch *controlv1.ClickHouseSink) {
	if ch == nil {
		return
	}
	for i, address := range ch.Addr {
		c.hostPort(fmt.Sprintf("%s.addr[%d]", sinkField, i), address, "9000")
	}
	database, table, dotted := strings.Cut(ch.Table, ".")
	switch {
	case !dotted:
	case ch.Database == "" && (database == "" || table == "" || strings.Contains(table, ".")):
		c.add(sinkField+".table", ch.Table, "is not table or database.table",
			"give database and table as two fields when a name has a dot in it")
	case ch.Database != "" && database == ch.Database:
		c.add(sinkField+".table", ch.Table, "names the database again", "give table: "+table)
	}
	c.tls(sinkField+".tls", ch.Tls)
}

func (c *checks) columns(p *controlv1.Pipeline) {
	create := p.GetSink().GetClickhouse().GetCreateTable()
	seen := map[string]int{}
	for i, column := range p.Columns {
		field := fmt.Sprintf("columns[%d]", i)
		if column.GetName() == "" {
			continue // said by the rules of the definition
		}
		if first, again := seen[column.Name]; again {
			c.add(field+".name", column.Name, fmt.Sprintf("is already columns[%d]", first), "keep one of the two")
		} else {
			seen[column.Name] = i
		}
		if column.Type != "" && !create {
			c.add(field+".type", column.Type, "is only used to make the table", "leave it out, or set sink.clickhouse.create_table: true")
		}
		c.from(p, field+".from", column.From)
	}
}

// from checks a JSON path or Kafka metadata, with a join after the name of a source.
func (c *checks) from(p *controlv1.Pipeline, field, from string) {
	_, path, qualified := Qualified(p, Path(from))
	switch _, _, metadata := Metadata(path); {
	case from == "":
	case metadata && p.GetJoin() != nil && !qualified:
		c.add(field, from, "does not say of which source", "write the source's name and a dot in front, such as orders."+from)
	case metadata:
	case strings.HasPrefix(path, "$"):
		c.add(field, from, "is no Kafka metadata", "give one of "+metadataNames)
	default:
		if what := pathProblem(path); what != "" {
			c.add(field, from, what, "give the names of the fields joined by dots, such as user.address.city")
		}
	}
}
