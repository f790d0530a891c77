//go:build unix

package stack

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

// Table is the SQL side of a test: one ClickHouse.
type Table struct {
	t  testing.TB
	db *sql.DB
}

// OpenSQL connects to a ClickHouse; it need not be up yet.
func OpenSQL(t testing.TB, addr string) *Table {
	t.Helper()
	db := clickhouse.OpenDB(&clickhouse.Options{Addr: []string{addr}, DialTimeout: 5 * time.Second, ReadTimeout: Up})
	db.SetMaxIdleConns(0) // ClickHouse is killed in some tests: no connection is kept
	t.Cleanup(func() { _ = db.Close() })
	return &Table{t, db}
}

// Exec runs a statement that must succeed.
func (c *Table) Exec(query string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), Up)
	defer cancel()
	_, err := c.db.ExecContext(ctx, query)
	require.NoError(c.t, err, "%s", query)
}

// Rows returns the rows of a query, each as the text of its columns with "|" between. The order is the query's.
func (c *Table) Rows(query string) []string {
	c.t.Helper()
	rows, err := c.TryRows(query)
	require.NoError(c.t, err, "%s", query)
	return rows
}

// TryRows is Rows for a server that may be down.
func (c *Table) TryRows(query string) ([]string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), Up)
	defer cancel()
	rows, err := c.db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var all []string
	values, ptrs := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		ptrs[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(ptrs...); err != nil {
			return nil, err
		}
		var line strings.Builder
		for i, v := range values {
			if i > 0 {
				line.WriteByte('|')
			}
			if at, ok := v.(time.Time); ok {
				v = at.UTC().Format(time.RFC3339Nano)
			}
			fmt.Fprint(&line, v)
		}
		all = append(all, line.String())
	}
	return all, rows.Err()
}

// Count returns the number of rows of a table.
func (c *Table) Count(table string) int {
	c.t.Helper()
	var n int
	_, err := fmt.Sscan(c.Rows("SELECT count() FROM " + table)[0], &n)
	require.NoError(c.t, err)
	return n
}
