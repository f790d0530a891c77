package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// rowColumn numbers the rows of a block in blockTable. No user's column is likely to have these names.
const (
	rowColumn  = "sluice row"
	blockTable = "sluice block"
)

// ErrCannotTell says that of this kind of table nobody can say whether a block is in it: its rows are merged into
// others, or it holds none.
var ErrCannotTell = errors.New("whether a block is in this table cannot be told")

// Missing returns the rows of a block that the table does not hold, by number. It is to be asked when a block was in
// doubt and has then been taken under the same token, because a table that is not replicated notes a token before the
// block: a server that is killed in between has the token and not the rows, and from then on answers every repeat with
// success. What is missing is then to be sent under another token.
//
// Rows are compared whole. A row that the table held before the block hides that it is missing: with a deduplicated key
// there is none. Cost: the block is sent once more, into a temporary table; the table is read where its sorting key
// equals that of the block's rows, or all of it where the sorting key needs a column that the block does not have.
//
// For MergeTree and ReplacingMergeTree; else ErrCannotTell. Of a replicated or shared table nothing is ever missing: it
// keeps tokens and parts in one transaction, so it is not looked at.
func (n *Inserter) Missing(ctx context.Context, i Insert) ([]int, error) {
	rows, err := n.missing(ctx, i, false)
	if err != nil {
		return nil, fmt.Errorf("look whether a block is in %s: %w", i.Table, err)
	}
	return rows, nil
}

// Absent is Missing for a block of which nobody knows whether it was sent: it looks in replicated and shared tables, too.
func (n *Inserter) Absent(ctx context.Context, i Insert) ([]int, error) {
	rows, err := n.missing(ctx, i, true)
	if err != nil {
		return nil, fmt.Errorf("look which rows of a block are in %s: %w", i.Table, err)
	}
	return rows, nil
}

func (n *Inserter) missing(ctx context.Context, i Insert, always bool) ([]int, error) {
	engine, sorting, err := n.sortingKey(ctx, i.Table)
	switch {
	case err != nil:
		return nil, err
	case !always && (strings.HasPrefix(engine, "Replicated") || strings.HasPrefix(engine, "Shared")):
		return nil, nil
	case !slices.Contains([]string{"MergeTree", "ReplacingMergeTree"}, strings.TrimPrefix(strings.TrimPrefix(engine, "Replicated"), "Shared")):
		return nil, fmt.Errorf("%w: its engine is %s", ErrCannotTell, engine)
	}
	n.Close() // the temporary table ends with the session, and so does what an error leaves
	if err := n.connect(ctx); err != nil {
		return nil, err
	}
	defer n.Close()
	s := n.session
	stop := s.closeWith(ctx)
	defer stop()

	names := make([]string, len(i.Columns))
	for c, column := range i.Columns {
		names[c] = Quote(column.Name)
	}
	list := strings.Join(names, ", ")
	// Of the table's types, so that the server converts the block as it did for the table.
	create := fmt.Sprintf("CREATE TEMPORARY TABLE %s ENGINE = Memory AS SELECT toUInt64(0) AS %s, %s FROM %s LIMIT 0",
		Quote(blockTable), Quote(rowColumn), list, i.Table.Quoted())
	if _, err := s.numbers(create); err != nil {
		return nil, cause(ctx, err)
	}
	numbers := make(proto.ColUInt64, i.Columns[0].Data.Rows())
	for row := range numbers {
		numbers[row] = uint64(row)
	}
	copied := Insert{
		Table: Name{Table: blockTable}, Columns: append([]proto.InputColumn{{Name: rowColumn, Data: &numbers}}, i.Columns...),
		QueryID: i.QueryID + "-check", Settings: i.Settings,
	}
	if err := s.insert(ctx, copied); err != nil {
		return nil, err
	}
	// Of a tuple: the hash of several values of which one is NULL is NULL, and all those would be equal.
	hash := "sipHash128(tuple(" + list + "))"
	look := func(where string) ([]int, error) {
		// Every row is answered for, so that an answer that is not whole is none: what is not there would be taken for what is.
		answer, err := s.numbers(fmt.Sprintf("SELECT %s * 2 + (%s IN (SELECT %s FROM %s%s)) FROM %s ORDER BY 1",
			Quote(rowColumn), hash, hash, i.Table.Quoted(), where, Quote(blockTable)))
		if err != nil {
			return nil, cause(ctx, err)
		}
		return lacking(answer, len(numbers))
	}
	if sorting != "" {
		found, err := look(fmt.Sprintf(" WHERE (%s) IN (SELECT %s FROM %s)", sorting, sorting, Quote(blockTable)))
		if err == nil || !isServerError(err) {
			return found, err
		}
		// The sorting key needs more than the block has.
	}
	return look("")
}

// lacking reads an answer about so many rows, in their order: twice the row's number, and one if it is there.
func lacking(answer []int, rows int) (lacks []int, err error) {
	for at, is := range answer {
		if is/2 != at {
			return nil, fmt.Errorf("the server's answer about row %d is one about row %d", at, is/2)
		}
		if is%2 == 0 {
			lacks = append(lacks, at)
		}
	}
	if len(answer) != rows {
		return nil, fmt.Errorf("the server has answered for %d of %d rows", len(answer), rows)
	}
	return lacks, nil
}

// sortingKey returns the table's engine and the expressions by which it is sorted; none: "".
func (n *Inserter) sortingKey(ctx context.Context, table Name) (engine, sorting string, err error) {
	conn, err := open(ctx, n.sink)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	err = conn.QueryRow(ctx, "SELECT engine, sorting_key FROM system.tables WHERE database = ? AND name = ?",
		table.Database, table.Table).Scan(&engine, &sorting)
	return engine, sorting, err
}

// numbers runs a statement and returns its only column, if it has one.
func (s *session) numbers(sql string) ([]int, error) {
	if err := s.sendStatement(sql); err != nil {
		return nil, fmt.Errorf("send a query: %w", err)
	}
	var out []int
	for {
		var numbers rowNumbers
		code, err := s.next(&numbers)
		if err != nil {
			return nil, err
		}
		if code == proto.ServerCodeEndOfStream {
			return out, nil
		}
		out = append(out, numbers.rows...)
	}
}

func (s *session) sendStatement(sql string) error {
	compression := proto.CompressionDisabled
	if s.frames != nil {
		compression = proto.CompressionEnabled
	}
	var b proto.Buffer
	proto.ClientCodeQuery.Encode(&b)
	b.PutString("") // the server gives it an id
	proto.ClientInfo{
		ProtocolVersion: s.revision, Major: 1, Interface: proto.InterfaceTCP, Query: proto.ClientQueryInitial,
		InitialUser: s.username, InitialAddress: s.conn.LocalAddr().String(), ClientName: clientName,
	}.EncodeAware(&b, s.revision)
	// NULL equals NULL here, in the sorting key, too.
	proto.Setting{Key: "transform_null_in", Value: "1", Important: true}.Encode(&b)
	b.PutString("") // end of settings
	if proto.FeatureInterServerSecret.In(s.revision) {
		b.PutString("")
	}
	proto.StageComplete.Encode(&b)
	compression.Encode(&b)
	b.PutString(sql)
	if _, err := s.out.Write(b.Buf); err != nil {
		return err
	}
	if err := s.writeBlock(nil); err != nil { // end of external tables
		return err
	}
	return s.out.Flush()
}
