package clickhouse

import (
	"context"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
)

// losePart leaves the table as a kill does that comes when the engine has noted a block's token and has not yet renamed
// the part: the one with the given id in it is gone, and what the engine knows it reads from disk again.
func losePart(t *testing.T, sink *controlv1.ClickHouseSink, id int) {
	t.Helper()
	table := TableName(sink).Quoted()
	part := ask(t, sink, fmt.Sprintf("SELECT DISTINCT _part FROM %s WHERE id = %d", table, id))
	path := ask(t, sink, fmt.Sprintf("SELECT path FROM system.parts WHERE active AND database = '%s' AND name = '%s'", sink.GetDatabase(), part))
	require.DirExists(t, path)
	require.NoError(t, run(context.Background(), sink, "DETACH TABLE "+table+" SYNC"))
	require.NoError(t, os.RemoveAll(path))
	require.NoError(t, run(context.Background(), sink, "ATTACH TABLE "+table))
}

// A repeat that the table answers with success need not be in it: the engine notes the token first.
func TestMissingAfterAKillBetweenTokenAndPart(t *testing.T) {
	for _, c := range []struct{ name, order string }{
		{"sorted by what the block has", "ORDER BY id"},
		{"by an expression", "ORDER BY (intDiv(id, 100), text)"},
		{"by what the block lacks", "ORDER BY (at, id)"},
		{"not at all", "ORDER BY tuple()"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sink := engine(t, "t", `(id UInt64, text Nullable(String), at DateTime DEFAULT toDateTime(id, 'UTC')) ENGINE = MergeTree `+c.order+
				` PARTITION BY intDiv(id, 500) SETTINGS non_replicated_deduplication_window = 100, allow_nullable_key = 1`)
			require.NoError(t, run(context.Background(), sink, "SYSTEM STOP MERGES "+TableName(sink).Quoted()))
			in, ctx := inserter(t, sink), context.Background()
			first := Insert{Table: TableName(sink), Columns: block(0, 1000), Token: "a", QueryID: "q"}
			second := Insert{Table: TableName(sink), Columns: block(1000, 500), Token: "b", QueryID: "q2"}
			missing, err := in.Missing(ctx, first)
			require.NoError(t, err)
			require.Len(t, missing, 1000, "before it was sent")
			require.NoError(t, in.Insert(ctx, first))
			require.NoError(t, in.Insert(ctx, second))
			for _, i := range []Insert{first, second} {
				missing, err := in.Missing(ctx, i)
				require.NoError(t, err)
				require.Empty(t, missing)
			}

			losePart(t, sink, 700) // the second half of the first block
			require.NoError(t, in.Insert(ctx, first), "the token is known")
			require.Equal(t, "1000/1000", counted(t, sink), "and the rows are not there")
			missing, err = in.Missing(ctx, first)
			require.NoError(t, err)
			want := make([]int, 500)
			for i := range want {
				want[i] = 500 + i
			}
			require.Equal(t, want, missing)

			rest := Insert{Table: TableName(sink), Columns: block(500, 500), Token: "a/again", QueryID: "q"}
			require.NoError(t, in.Insert(ctx, rest))
			missing, err = in.Missing(ctx, first)
			require.NoError(t, err)
			require.Empty(t, missing)
			require.Equal(t, "1500/1500", counted(t, sink))
		})
	}
}

// NULL, NaN and nested values are compared like any other: that both have a NULL does not make two rows equal.
func TestMissingComparesWhatIsNotEqualToItself(t *testing.T) {
	sink := engine(t, "t", `(id UInt64, f Float64, a Array(String), text Nullable(String)) ENGINE = ReplacingMergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 100`)
	require.NoError(t, run(context.Background(), sink, "INSERT INTO "+TableName(sink).Quoted()+" VALUES (0, nan, ['x'], NULL), (1, 1, [], 'y'), (3, 0, [], '')"))
	id, f := proto.ColUInt64{0, 1, 1, 2, 0, 3}, proto.ColFloat64{0, 1, 1, 0, 1, 0}
	f[0] = math.Float64frombits(0x7FF8000000000000) // as the server's own; ours is another, and comes back as it was sent
	a := proto.NewArray[string](new(proto.ColStr))
	a.AppendArr([]([]string){{"x"}, {}, {""}, {}, {"x"}, {}})
	text := proto.NewColNullable[string](new(proto.ColStr))
	null, y := proto.Null[string](), proto.NewNullable("y")
	text.AppendArr([]proto.Nullable[string]{null, y, y, null, null, null})
	missing, err := inserter(t, sink).Missing(context.Background(), Insert{Table: TableName(sink), QueryID: "q", Columns: []proto.InputColumn{
		{Name: "id", Data: &id}, {Name: "f", Data: &f}, {Name: "a", Data: a}, {Name: "text", Data: text},
	}})
	require.NoError(t, err)
	require.Equal(t, []int{2, 3, 4, 5}, missing)
}

// An answer that is not whole is none.
func TestLacking(t *testing.T) {
	lacks, err := lacking([]int{0, 3, 4, 7}, 4)
	require.NoError(t, err)
	require.Equal(t, []int{0, 2}, lacks)
	for _, answer := range [][]int{nil, {0, 3, 4}, {0, 3, 4, 7, 8}, {0, 4}} {
		_, err := lacking(answer, 4)
		require.Error(t, err, "%v", answer)
	}
}

func TestMissingCannotTell(t *testing.T) {
	sink := engine(t, "t", "(id UInt64, text String) ENGINE = Null")
	_, err := inserter(t, sink).Missing(context.Background(), Insert{Table: TableName(sink), Columns: block(0, 1), QueryID: "q"})
	require.ErrorIs(t, err, ErrCannotTell)
}
