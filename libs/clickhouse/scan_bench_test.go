//go:build unix

package clickhouse

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
	"sluice/libs/ledger"
	"sluice/libs/native"
)

// What an audit costs: the table is read, hashed and subtracted from a ledger. CPU is that of this process, without
// the engine's.
func BenchmarkScan(b *testing.B) {
	const rows = 1_000_000
	for _, c := range []struct{ name, columns, values string }{
		{"200B_5columns", "event_id String, user_id UInt64, name String, email String, created_at DateTime64(3)",
			`concat(hex(MD5(toString(number))), hex(MD5(toString(number + 1)))), number * 7, concat('name of user ', toString(number)),
			concat('user-', toString(number), '@', hex(MD5(toString(number))), '.example.com'), toDateTime64(1700000000 + number / 100, 3)`},
	} {
		b.Run(c.name, func(b *testing.B) {
			addr, _ := startChild(b, b.TempDir())
			sink := &controlv1.ClickHouseSink{Addr: []string{addr}, Table: "t"}
			ctx := context.Background()
			require.NoError(b, run(ctx, sink, "CREATE TABLE t ("+c.columns+") ENGINE = MergeTree ORDER BY tuple()"))
			require.NoError(b, run(ctx, sink, "INSERT INTO t SELECT "+c.values+" FROM numbers(1000000)"))
			names := []string{"event_id", "user_id", "name", "email", "created_at"}
			var hashes []uint64
			cpu := cpuTime(b)
			var size uint64
			for b.Loop() {
				table := ledger.New(native.HashVersion)
				read, err := Scan{Table: TableName(sink), Columns: names, Rows: func(columns []*native.Column) error {
					hashes = native.HashRows(hashes[:0], columns[0].Rows(), names, columns)
					for _, h := range hashes {
						table.Subtract(h)
					}
					return nil
				}}.Run(ctx, sink)
				require.NoError(b, err)
				require.EqualValues(b, rows, read.Rows)
				size = read.Bytes
			}
			n := float64(b.N) * rows
			b.ReportMetric(n/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64((cpuTime(b)-cpu).Nanoseconds())/n, "cpu-ns/row")
			b.ReportMetric(float64(size)/rows, "B/row")
		})
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
