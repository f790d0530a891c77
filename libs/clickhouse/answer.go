package clickhouse

import (
	"errors"
	"fmt"

	"github.com/ClickHouse/ch-go/proto"

	"sluice/libs/native"
)

// What a server may answer with. ch-go's decoders make room for what a length says before the bytes are there: nine
// bytes, of whatever listens on that port, would end the process.
const (
	maxText    = 1 << 20 // bytes of a message, a name, a type
	maxColumns = 1 << 16
	maxRows    = 100_000_000
)

// readText reads a text that comes beside the data.
func readText(r *proto.Reader) (string, error) {
	n, err := r.StrLen()
	if err != nil {
		return "", err
	}
	if n > maxText {
		return "", fmt.Errorf("a text of %d bytes", n)
	}
	b, err := r.ReadRaw(n)
	return string(b), err
}

// readTexts reads texts into their places.
func readTexts(r *proto.Reader, into ...*string) (err error) {
	for _, s := range into {
		if *s, err = readText(r); err != nil {
			return err
		}
	}
	return nil
}

// readHello reads what follows the code of a server's greeting.
func readHello(r *proto.Reader) (h proto.ServerHello, err error) {
	if err := readTexts(r, &h.Name); err != nil {
		return h, err
	}
	for _, n := range []*int{&h.Major, &h.Minor, &h.Revision} {
		if *n, err = r.Int(); err != nil {
			return h, err
		}
	}
	if proto.FeatureTimezone.In(revision) {
		if err := readTexts(r, &h.Timezone); err != nil {
			return h, err
		}
	}
	if proto.FeatureDisplayName.In(revision) {
		if err := readTexts(r, &h.DisplayName); err != nil {
			return h, err
		}
	}
	if proto.FeatureVersionPatch.In(revision) {
		if h.Patch, err = r.Int(); err != nil {
			return h, err
		}
	}
	return h, nil
}

// exception reads a server's answer that something is wrong; nil is never returned.
func (s *session) exception() error {
	code, err := s.in.Int32()
	if err != nil {
		return fmt.Errorf("read an exception: %w", err)
	}
	e := &ServerError{Code: int(code), Addr: s.addr}
	var stack string
	if err := readTexts(s.in, &e.Name, &e.Message, &stack); err != nil {
		return fmt.Errorf("read an exception: %w", err)
	}
	if _, err := s.in.Bool(); err != nil { // whether another is within
		return fmt.Errorf("read an exception: %w", err)
	}
	return e
}

func (s *session) readBlock(into proto.Result, compressed bool) error {
	if _, err := readText(s.in); err != nil { // name of an external table: always empty
		return err
	}
	if compressed {
		s.in.EnableCompression()
		defer s.in.DisableCompression()
	}
	if err := readBlock(s.in, s.revision, into); err != nil {
		return fmt.Errorf("read a block: %w", err)
	}
	return nil
}

// readBlock reads a block, whose columns into reads.
func readBlock(r *proto.Reader, revision int, into proto.Result) error {
	var b proto.Block
	if proto.FeatureBlockInfo.In(revision) {
		if err := b.Info.Decode(r); err != nil {
			return err
		}
	}
	var err error
	if b.Columns, err = r.Int(); err != nil {
		return err
	}
	if b.Rows, err = r.Int(); err != nil {
		return err
	}
	if b.Columns < 0 || b.Columns > maxColumns || b.Rows < 0 || b.Rows > maxRows {
		return fmt.Errorf("%d columns, %d rows", b.Columns, b.Rows)
	}
	return into.DecodeResult(r, revision, b)
}

// tableColumns are the columns of the table as the server names them before it takes a block.
type tableColumns struct{ proto.ColInfoInput }

func (t *tableColumns) DecodeResult(r *proto.Reader, _ int, head proto.Block) error {
	if head.Rows > 0 {
		return errors.New("rows where the server was to name its columns")
	}
	t.ColInfoInput = t.ColInfoInput[:0]
	for range head.Columns {
		var name, typ string
		if err := readTexts(r, &name, &typ); err != nil {
			return err
		}
		t.ColInfoInput = append(t.ColInfoInput, proto.ColInfo{Name: name, Type: proto.ColumnType(typ)})
	}
	return nil
}

// discarded reads a block that nobody looks at: logs, counters.
type discarded struct{}

func (discarded) DecodeResult(r *proto.Reader, _ int, head proto.Block) error {
	for range head.Columns {
		if _, err := readColumn(r, head.Rows); err != nil {
			return err
		}
	}
	return nil
}

// readColumn reads a column with its name and type, in memory that grows as data comes.
func readColumn(r *proto.Reader, rows int) (*native.Column, error) {
	var name, typ string
	if err := readTexts(r, &name, &typ); err != nil {
		return nil, err
	}
	parsed, err := native.ParseType(typ)
	if err != nil {
		return nil, fmt.Errorf("column %s: %w", Quote(name), err)
	}
	c := native.NewColumn(parsed, false)
	if err := c.ReadBlock(r, rows); err != nil {
		return nil, fmt.Errorf("column %s: %w", Quote(name), err)
	}
	return c, nil
}

// rowNumbers is the one column of UInt64 that a statement about rows answers with.
type rowNumbers struct{ rows []int }

func (n *rowNumbers) DecodeResult(r *proto.Reader, _ int, head proto.Block) error {
	n.rows = n.rows[:0]
	if head.Columns == 0 {
		return nil
	}
	if head.Columns != 1 {
		return fmt.Errorf("%d columns, asked for was one", head.Columns)
	}
	var name, typ string
	if err := readTexts(r, &name, &typ); err != nil {
		return err
	}
	if typ != "UInt64" {
		return fmt.Errorf("a column of %s, asked for was UInt64", typ)
	}
	for range head.Rows {
		row, err := r.UInt64()
		if err != nil {
			return err
		}
		n.rows = append(n.rows, int(row))
	}
	return nil
}
