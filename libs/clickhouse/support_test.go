package clickhouse

import (
	"context"
	"fmt"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
)

func run(ctx context.Context, sink *controlv1.ClickHouseSink, sql string) error {
	return execute(ctx, sink, sql, sql)
}

// ask returns the one String that a query answers.
func ask(t *testing.T, sink *controlv1.ClickHouseSink, sql string) string {
	t.Helper()
	conn, err := open(context.Background(), sink)
	require.NoError(t, err)
	defer conn.Close()
	var out string
	require.NoError(t, conn.QueryRow(context.Background(), sql).Scan(&out), sql)
	return out
}

func flat(columns []Column) []string {
	var out []string
	for _, c := range columns {
		out = append(out, c.Name+" "+c.Type+" "+c.Default)
	}
	return out
}

// block is n rows of id and text, ids from first on.
func block(first, n int) []proto.InputColumn {
	var id proto.ColUInt64
	var text proto.ColStr
	for i := first; i < first+n; i++ {
		id.Append(uint64(i))
		text.Append(fmt.Sprintf("row %d", i))
	}
	return []proto.InputColumn{{Name: "id", Data: &id}, {Name: "text", Data: &text}}
}
