package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
)

// CreateTable makes the sink's table, with its database, unless it is there: a MergeTree that recognises
// repeated blocks. orderBy names columns; what names none is
// left out, since a dedup key need not be a column.
func CreateTable(ctx context.Context, sink *controlv1.ClickHouseSink, columns []Column, orderBy []string) error {
	conn, err := open(ctx, sink)
	if err != nil {
		return err
	}
	defer conn.Close()
	server, err := conn.ServerVersion()
	if err != nil {
		return fmt.Errorf("clickhouse: ask for the version: %w", err)
	}
	name := TableName(sink)
	sql, err := createStatement(name, columns, orderBy, Version{int(server.Version.Major), int(server.Version.Minor)})
	if err != nil {
		return err
	}
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+Quote(name.Database)); err != nil {
		// A user who may not make databases can use one that is there: the next statement tells.
		if code, _, ok := serverCode(err); !ok || code != 497 {
			return fmt.Errorf("clickhouse: create database %s: %w", name.Database, err)
		}
	}
	if err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("clickhouse: create table %s: %w", name, err)
	}
	return nil
}

func createStatement(name Name, columns []Column, orderBy []string, v Version) (string, error) {
	if len(columns) == 0 {
		return "", &ConfigError{"columns", errors.New("there is no column to make the table from: declare columns with their types, or produce some events first")}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s\n(", name.Quoted())
	nullable := false
	var order []string
	for i, c := range columns {
		if c.Type == "" {
			return "", &ConfigError{fmt.Sprintf("columns[%d].type", i), fmt.Errorf("column %s has no type, and none could be found in a sample: give one", c.Name)}
		}
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, "\n    %s %s", Quote(c.Name), c.Type)
		if c.Default != "" {
			b.WriteString(" DEFAULT " + c.Default)
		}
	}
	for _, key := range orderBy {
		for _, c := range columns {
			if c.Name == key && !slices.Contains(order, Quote(c.Name)) {
				order = append(order, Quote(c.Name))
				nullable = nullable || strings.HasPrefix(c.Type, "Nullable(") || strings.HasPrefix(c.Type, "LowCardinality(Nullable(")
			}
		}
	}
	fmt.Fprintf(&b, "\n)\nENGINE = MergeTree\nORDER BY ")
	if len(order) == 0 {
		b.WriteString("tuple()")
	} else {
		b.WriteString("(" + strings.Join(order, ", ") + ")")
	}
	var settings []string
	if v.AtLeast(21, 4) {
		settings = append(settings, fmt.Sprintf("non_replicated_deduplication_window = %d", DefaultWindow))
	}
	if nullable {
		settings = append(settings, "allow_nullable_key = 1")
	}
	if len(settings) > 0 {
		b.WriteString("\nSETTINGS " + strings.Join(settings, ", "))
	}
	return b.String(), nil
}

// SetDeduplicationWindow gives the table a deduplication window.
func SetDeduplicationWindow(ctx context.Context, sink *controlv1.ClickHouseSink, t *Table) error {
	if !strings.HasSuffix(t.Engine, "MergeTree") {
		return &ConfigError{"sink.clickhouse.set_deduplication_window", fmt.Errorf("%s is a %s table, which has no deduplication window", t.Name, t.Engine)}
	}
	return execute(ctx, sink, "set the deduplication window of "+t.Name.String(), WindowStatement(t))
}

// KillQuery ends the query of that id, on the server that answers, and returns once it has ended. It is no error
// when there is none. Of several addresses each is asked.
func KillQuery(ctx context.Context, sink *controlv1.ClickHouseSink, queryID string) error {
	return kill(ctx, sink, "end query "+queryID, "query_id = "+quoteText(queryID))
}

// KillQueries is KillQuery for all queries whose ids begin so.
func KillQueries(ctx context.Context, sink *controlv1.ClickHouseSink, prefix string) error {
	literally := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(prefix)
	return kill(ctx, sink, "end queries "+prefix+"…", "query_id LIKE "+quoteText(literally+"%"))
}

func kill(ctx context.Context, sink *controlv1.ClickHouseSink, what, which string) error {
	var errs []error
	for _, addr := range sink.GetAddr() {
		one := &controlv1.ClickHouseSink{
			Addr: []string{addr}, Username: sink.GetUsername(), Password: sink.GetPassword(), Tls: sink.GetTls(),
		}
		if err := execute(ctx, one, what, "KILL QUERY WHERE "+which+" SYNC"); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
