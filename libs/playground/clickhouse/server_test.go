package clickhouse_test

import (
	"context"
	"os"
	"testing"

	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"sluice/libs/playground/clickhouse/clickhousetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	goleak.VerifyTestMain(m)
}

func connect(t *testing.T, change ...func(*chgo.Options)) driver.Conn {
	t.Helper()
	addr, database := clickhousetest.StartDB(t)
	return dial(t, addr, database, change...)
}

func dial(t *testing.T, addr, database string, change ...func(*chgo.Options)) driver.Conn {
	t.Helper()
	opt := &chgo.Options{Addr: []string{addr}, Auth: chgo.Auth{Database: database}}
	for _, c := range change {
		c(opt)
	}
	conn, err := chgo.Open(opt)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

func count(t *testing.T, conn driver.Conn, table string) (n uint64) {
	t.Helper()
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count() FROM "+table).Scan(&n))
	return n
}

func TestRoundTrip(t *testing.T) {
	for name, method := range map[string]chgo.CompressionMethod{"plain": chgo.CompressionNone, "lz4": chgo.CompressionLZ4, "zstd": chgo.CompressionZSTD} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, func(o *chgo.Options) { o.Compression = &chgo.Compression{Method: method} })
			ctx := context.Background()
			require.NoError(t, conn.Ping(ctx))
			require.NoError(t, conn.Exec(ctx, "CREATE TABLE t (a UInt64, s String DEFAULT concat('d', toString(a)), m UInt8 MATERIALIZED 1) ENGINE = MergeTree ORDER BY a"))
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO t (a)")
			require.NoError(t, err)
			for i := range 1000 {
				require.NoError(t, batch.Append(uint64(i)))
			}
			require.NoError(t, batch.Send())
			require.EqualValues(t, 1000, count(t, conn, "t"))
			var s string
			require.NoError(t, conn.QueryRow(ctx, "SELECT s FROM t WHERE a = 17").Scan(&s))
			require.Equal(t, "d17", s)
		})
	}
}
