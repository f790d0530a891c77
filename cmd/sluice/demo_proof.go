package main

import (
	"context"
	"fmt"
	"io"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	controlv1 "sluice/gen/sluice/control/v1"
)

// found is what the table says about itself.
type found struct {
	rows, distinct, duplicated uint64
	sum, xor                   uint64
}

// prove asks the table. Sums of 64 bits wrap around on both sides alike.
func prove(ctx context.Context, db driver.Conn) (found, error) {
	const query = `
WITH xxh3(concat(toString(event_id), '|', toString(user_id), '|', name, '|', email, '|',
    toString(toUnixTimestamp64Milli(created_at)))) AS h
SELECT count(), uniqExact(event_id), sum(h), groupBitXor(h) FROM user_events`
	var f found
	if err := db.QueryRow(ctx, query).Scan(&f.rows, &f.distinct, &f.sum, &f.xor); err != nil {
		return f, err
	}
	const twice = `SELECT count() FROM (SELECT event_id FROM user_events GROUP BY event_id HAVING count() > 1)`
	return f, db.QueryRow(ctx, twice).Scan(&f.duplicated)
}

// report prints the comparison and says whether all of it holds.
func report(w io.Writer, g generator, want truth, got found, s *controlv1.PipelineStatus) (bool, error) {
	var c comparison
	c.check("rows in the table", thousands(want.rows), thousands(got.rows))
	c.check("distinct event_id", thousands(want.rows), thousands(got.distinct))
	c.check("event_id more than once", "0", thousands(got.duplicated))
	c.check("sum of xxh3 over rows", fmt.Sprintf("%016x", want.sum), fmt.Sprintf("%016x", got.sum))
	c.check("xor of xxh3 over rows", fmt.Sprintf("%016x", want.xor), fmt.Sprintf("%016x", got.xor))
	c.check("records read (status)", thousands(uint64(g.events)), thousands(s.GetRecordsIn()))
	c.check("duplicates dropped (status)", thousands(uint64(g.duplicates)), thousands(s.GetDuplicates()))
	c.check("rows written (status)", thousands(want.rows), thousands(s.GetRowsOut()))
	c.check("dead letters (status)", "0", thousands(s.GetDeadLetters()))
	return c.print(w)
}

// comparison is what a demo expects beside what it found.
type comparison struct {
	rows  [][]string
	wrong bool
}

func (c *comparison) check(name, want, got string) {
	verdict := "ok"
	if want != got {
		verdict, c.wrong = "WRONG", true
	}
	c.rows = append(c.rows, []string{name, want, got, verdict})
}

// print prints the table and says whether all of it holds.
func (c *comparison) print(w io.Writer) (bool, error) {
	return !c.wrong, table(w, append([][]string{{"CHECK", "EXPECTED", "FOUND", ""}}, c.rows...))
}
