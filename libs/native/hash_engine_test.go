package native_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	"sluice/libs/native"
	"sluice/libs/playground/clickhouse/clickhousetest"
)

// TestEngineReadsBackTheSameHashes writes values of every type into real tables, merges them, reads them back over the native protocol
// and hashes them again. The same values stand in one block and in many, and among many defaults, so that the server stores them
// in every form it has.
func TestEngineReadsBackTheSameHashes(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	for i, c := range engineCases {
		t.Run(c.typ, func(t *testing.T) {
			client := dial(t, addr, ch.CompressionDisabled)
			table := fmt.Sprintf("%s.t%d", db, i)
			do(t, client, fmt.Sprintf("CREATE TABLE %s (n UInt32, c %s) ENGINE = MergeTree ORDER BY n "+
				"SETTINGS ratio_of_defaults_for_sparse_serialization = 0.5, min_bytes_for_wide_part = 0, min_rows_for_wide_part = 0", table, c.typ))
			names := readStrings(t, client, fmt.Sprintf("SELECT type FROM system.columns WHERE database = '%s' AND table = 't%d' AND name = 'c'", db, i))
			typ, err := native.ParseType(names[0])
			require.NoError(t, err)
			if strings.Contains(c.typ, "JSON") || strings.Contains(c.typ, "Dynamic") {
				require.Error(t, native.Hashable(typ))
				return
			}
			require.NoError(t, native.Hashable(typ))

			numbers, values := engineBlock(t, typ, c)
			want := native.HashRows(nil, values.Rows(), []string{"n", "c"}, []*native.Column{numbers, values})
			insert(t, client, table, numbers, values)
			for row := range values.Rows() { // each in a part of its own, too
				keep := make([]byte, (values.Rows()+7)/8)
				keep[row/8] |= 1 << (row % 8)
				one := []*native.Column{newColumn(t, "UInt32", false), native.NewColumn(typ, false)}
				require.NoError(t, one[0].AppendFromWire(numbers.AppendWire(nil), numbers.Rows(), keep))
				require.NoError(t, one[1].AppendFromWire(values.AppendWire(nil), values.Rows(), keep))
				insert(t, client, table, one[0], one[1])
				want = append(want, want[row])
			}
			const defaults = 1000
			do(t, client, fmt.Sprintf("INSERT INTO %s (n) SELECT 1000000 + number FROM numbers(%d)", table, defaults))
			require.ElementsMatch(t, want, readHashes(t, client, table))
			do(t, client, "OPTIMIZE TABLE "+table+" FINAL")
			require.ElementsMatch(t, want, readHashes(t, client, table))

			// A default adds nothing: the rows that never had the column hash as if there were none.
			numbers.Reset()
			for n := range int64(defaults) {
				require.NoError(t, numbers.AppendInt(1000000+n))
			}
			var got []uint64
			for _, h := range readBlocks(t, client, "SELECT n, c FROM "+table+" WHERE n >= 1000000") {
				got = append(got, h...)
			}
			require.ElementsMatch(t, native.HashRows(nil, defaults, []string{"n"}, []*native.Column{numbers}), got)
		})
	}
}

func readHashes(t *testing.T, c *ch.Client, table string) (out []uint64) {
	t.Helper()
	for _, h := range readBlocks(t, c, "SELECT n, c FROM "+table+" WHERE n < 1000000") {
		out = append(out, h...)
	}
	return out
}

func readBlocks(t *testing.T, c *ch.Client, query string) [][]uint64 {
	t.Helper()
	var out hashes
	require.NoError(t, c.Do(context.Background(), ch.Query{Body: query, Result: &out,
		OnResult: func(context.Context, proto.Block) error { return nil }}), query)
	return out
}

// hashes is a proto.Result: the hashes of each block's rows.
type hashes [][]uint64

func (h *hashes) DecodeResult(r *proto.Reader, version int, b proto.Block) error {
	var names []string
	var columns []*native.Column
	for range b.Columns {
		name, err := r.Str()
		if err != nil {
			return err
		}
		typ, err := r.Str()
		if err != nil {
			return err
		}
		if proto.FeatureCustomSerialization.In(version) {
			if custom, err := r.Bool(); err != nil || custom {
				return fmt.Errorf("a custom serialization of %s: %w", typ, err)
			}
		}
		parsed, err := native.ParseType(typ)
		if err != nil {
			return err
		}
		column := native.NewColumn(parsed, false)
		if err := column.ReadBlock(r, b.Rows); err != nil {
			return err
		}
		names, columns = append(names, name), append(columns, column)
	}
	*h = append(*h, native.HashRows(nil, b.Rows, names, columns))
	return nil
}
