package main

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Table is the target table, looked at past the proxy.
type Table struct{ conn driver.Conn }

func openTable(addr string) (*Table, error) {
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{addr}, DialTimeout: time.Second, MaxOpenConns: 2, MaxIdleConns: 1, ReadTimeout: 2 * time.Minute,
	})
	if err != nil {
		return nil, fmt.Errorf("open the table: %w", err)
	}
	return &Table{conn}, nil
}

// Make makes the table. It remembers the tokens of so many blocks.
func (t *Table) Make(ctx context.Context, columns string, window int) error {
	err := t.conn.Exec(ctx, fmt.Sprintf("CREATE TABLE events (%s) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = %d",
		columns, window))
	if err != nil {
		return fmt.Errorf("make the table: %w", err)
	}
	return nil
}

// Count is the number of rows now.
func (t *Table) Count(ctx context.Context) (n uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = t.conn.QueryRow(ctx, "SELECT count() FROM events").Scan(&n)
	return n, err
}

// Each calls f with every row of a dedupJob's table.
func (t *Table) Each(ctx context.Context, f func(Row)) error {
	return t.each(ctx, "SELECT id, n, text, at_partition, at_offset FROM events", func(scan func(...any) error) error {
		var r Row
		err := scan(&r.ID, &r.N, &r.Text, &r.Partition, &r.Offset)
		if err == nil {
			f(r)
		}
		return err
	})
}

// each calls f with what reads a row, for every row.
func (t *Table) each(ctx context.Context, query string, f func(scan func(...any) error) error) error {
	rows, err := t.conn.Query(ctx, query)
	if err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return fmt.Errorf("read the table: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	return nil
}
