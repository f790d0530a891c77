package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"go.opentelemetry.io/otel/trace"
)

// Insert is one block for one table.
type Insert struct {
	Table Name
	// Columns in the order of the INSERT; all of the same length, at least one row.
	Columns []proto.InputColumn
	// Token under which the server recognises the block; empty sends none.
	Token string
	// QueryID by which the insert can be killed.
	QueryID string
	// Settings of the user.
	Settings map[string]string
	// Guard is called when the server has the query and waits for the data, so that KILL QUERY finds it from then on.
	// If it fails nothing is sent, and the error is an ErrNotSent. Nil: none.
	//
	// It is what fences a writer off: whoever takes over makes Guard fail first and then ends the query of that
	// id. A writer that wakes up later either finds its query ended or Guard failing.
	Guard func(ctx context.Context) error
}

// ErrNotSent says that no row of the block has left: Guard failed.
var ErrNotSent = errors.New("the block was not sent")

func (i Insert) sql() string {
	var b strings.Builder
	b.WriteString("INSERT INTO ")
	b.WriteString(i.Table.Quoted())
	b.WriteString(" (")
	for n, c := range i.Columns {
		if n > 0 {
			b.WriteString(", ")
		}
		b.WriteString(Quote(c.Name))
	}
	b.WriteString(") FORMAT Native")
	return b.String()
}

// insert sends the block and waits until the server has committed it. The query is finished when it returns;
// the session may then be used again only if err is nil.
func (s *session) insert(ctx context.Context, i Insert) (err error) {
	if len(i.Columns) == 0 || i.Columns[0].Data.Rows() == 0 {
		return errors.New("insert of an empty block")
	}
	stop := s.closeWith(ctx)
	defer func() {
		stop()
		err = cause(ctx, err)
	}()
	if err := s.sendQuery(ctx, i); err != nil {
		return err
	}
	var columns tableColumns
	code, err := s.next(&columns)
	if err != nil {
		return err
	}
	if code != proto.ServerCodeData {
		return fmt.Errorf("insert: the server did not ask for data (packet %s)", code)
	}
	if i.Guard != nil {
		if err := i.Guard(ctx); err != nil {
			return fmt.Errorf("%w: %w", ErrNotSent, err)
		}
	}
	changed := differences(columns.ColInfoInput, i.Columns)
	if err := s.sendData(i.Columns); err != nil {
		return s.answerAfter(changed, err)
	}
	code, err = s.next(&columns)
	switch {
	case err != nil && len(changed) > 0 && isServerError(err):
		return &ChangedError{changed, err}
	case err != nil:
		return err
	case code != proto.ServerCodeEndOfStream:
		return fmt.Errorf("insert: the server sent %s after the data", code)
	}
	return nil
}

// answerAfter looks for the server's answer when it did not take all the data: it refuses, and then closes.
func (s *session) answerAfter(changed []string, sendErr error) error {
	_ = s.conn.SetReadDeadline(time.Now().Add(time.Second))
	n, err := s.in.UVarInt()
	if err != nil || proto.ServerCode(n) != proto.ServerCodeException {
		return sendErr
	}
	answer := s.exception()
	if !isServerError(answer) {
		return sendErr
	}
	if len(changed) > 0 {
		return &ChangedError{changed, answer}
	}
	return answer
}

func (s *session) sendQuery(ctx context.Context, i Insert) error {
	settings, err := insertSettings(s.version(), i.Token, i.Settings)
	if err != nil {
		return err
	}
	if !proto.FeatureSettingsSerializedAsStrings.In(s.revision) {
		// Such servers know settings by binary type only, and none of ours.
		if len(i.Settings) > 0 {
			return &ConfigError{"sink.clickhouse.settings",
				fmt.Errorf("server %s takes no settings with an insert: remove them, or set them in the user's profile", s.version())}
		}
		settings = nil
	}
	return s.writeQuery(ctx, i.QueryID, settings, i.sql())
}

// writeQuery sends a query that has no external tables.
func (s *session) writeQuery(ctx context.Context, id string, settings []proto.Setting, sql string) error {
	compression := proto.CompressionDisabled
	if s.frames != nil {
		compression = proto.CompressionEnabled
	}
	var b proto.Buffer
	proto.ClientCodeQuery.Encode(&b)
	b.PutString(id)
	proto.ClientInfo{
		ProtocolVersion: s.revision,
		Major:           1,
		Interface:       proto.InterfaceTCP,
		Query:           proto.ClientQueryInitial,
		InitialUser:     s.username,
		InitialQueryID:  id,
		InitialAddress:  s.conn.LocalAddr().String(),
		ClientName:      clientName,
		Span:            trace.SpanContextFromContext(ctx),
	}.EncodeAware(&b, s.revision)
	for _, setting := range settings {
		setting.Encode(&b)
	}
	b.PutString("") // end of settings
	if proto.FeatureInterServerSecret.In(s.revision) {
		b.PutString("")
	}
	proto.StageComplete.Encode(&b)
	compression.Encode(&b)
	b.PutString(sql)
	if _, err := s.out.Write(b.Buf); err != nil {
		return fmt.Errorf("send the query: %w", err)
	}
	if err := s.writeBlock(nil); err != nil { // end of external tables
		return fmt.Errorf("send the query: %w", err)
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("send the query: %w", err)
	}
	return nil
}

// sendData sends the block and the end of data at once: exactly one Data packet with rows.
func (s *session) sendData(columns []proto.InputColumn) error {
	if err := s.writeBlock(columns); err != nil {
		return fmt.Errorf("send the block: %w", err)
	}
	if err := s.writeBlock(nil); err != nil {
		return fmt.Errorf("send the end of data: %w", err)
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("send the block: %w", err)
	}
	return nil
}

func (s *session) writeBlock(columns []proto.InputColumn) error {
	var head proto.Buffer
	proto.ClientCodeData.Encode(&head)
	proto.ClientData{}.EncodeAware(&head, s.revision)
	if _, err := s.out.Write(head.Buf); err != nil {
		return err
	}
	b := proto.Block{Columns: len(columns)}
	if len(columns) > 0 {
		b.Rows = columns[0].Data.Rows()
		b.Info.BucketNum = -1
	}
	if err := b.WriteBlock(s.block, s.revision, columns); err != nil {
		return err
	}
	if _, err := s.block.Flush(); err != nil {
		return err
	}
	if s.frames != nil {
		return s.frames.Flush()
	}
	return nil
}

// differences lists where the table's columns have other types than the block's. The server converts
// what it can; where it fails, the data is not to blame.
func differences(table proto.ColInfoInput, block []proto.InputColumn) []string {
	types := make(map[string]string, len(table))
	for _, c := range table {
		types[c.Name] = string(c.Type)
	}
	var out []string
	for _, c := range block {
		was := string(c.Data.Type())
		if is, ok := types[c.Name]; ok && is != was {
			out = append(out, fmt.Sprintf("%s: was %s, is %s", c.Name, was, is))
		}
	}
	return out
}
