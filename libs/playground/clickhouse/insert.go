package clickhouse

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/ClickHouse/ch-go/proto"
)

// insert runs an INSERT whose rows the client sends. They are collected first and given to the engine in one statement,
// each Data packet a source block of its own: so a lost connection inserts nothing, and tokens count as on a server.
func (c *conn) insert(run *running, st *statement, params []param) error {
	file := newSpool(c.server.spoolDir)
	defer file.remove()
	format, rows := "Native", 0
	if st.inline != "" {
		format = st.format
		if err := file.write([]byte(st.inline)); err != nil {
			return err
		}
	} else {
		columns, err := c.insertColumns(st, params)
		if err != nil {
			return err
		}
		if err := c.send(c.headerBlock(columns)); err != nil {
			return clientError{err}
		}
		if rows, err = c.collect(file); err != nil {
			return err
		}
		if rows == 0 {
			return nil
		}
	}
	if err := run.enter(); err != nil {
		return err
	}
	stop := c.cancelable(run, false, new(atomic.Bool))
	_, err := c.session.query(st.head+" FROM INFILE "+quoteText(file.path())+" "+st.settings+" FORMAT "+format, "Null", params...)
	stop()
	if err != nil {
		return err
	}
	if !proto.FeatureClientWriteInfo.In(c.version) {
		return nil // older clients expect no progress of an INSERT
	}
	c.progress(proto.Progress{WroteRows: uint64(rows), WroteBytes: uint64(file.size)})
	return nil
}

// collect reads Data packets up to the empty one that ends them.
func (c *conn) collect(file *spool) (rows int, err error) {
	for {
		code, err := c.raw.ReadByte()
		if err != nil {
			return 0, clientError{err}
		}
		switch proto.ClientCode(code) {
		case proto.ClientCodeData:
		case proto.ClientCodeCancel:
			return 0, nil // nothing was given to the engine yet
		default:
			return 0, clientError{fmt.Errorf("packet %d within an INSERT", code)}
		}
		h, err := c.receive()
		if err != nil {
			// Where the block ends is not known, so neither is where the next packet begins.
			return 0, clientError{fmt.Errorf("read a block: %w (%w)", err, c.fail(&exception{codeIncorrectData, err.Error()}))}
		}
		if h.columns == 0 {
			return rows, nil
		}
		if h.rows == 0 {
			continue
		}
		rows += h.rows
		if err := file.write(c.in.dst[h.start:]); err != nil {
			return 0, err
		}
	}
}

// insertColumns are the columns that the client has to send: those it named, or all that are stored and not computed.
func (c *conn) insertColumns(st *statement, params []param) ([]column, error) {
	target := st.target
	if !strings.HasSuffix(target, ")") {
		target = "TABLE " + target
	}
	text, err := c.session.query("DESCRIBE "+target, "TabSeparated", params...)
	if err != nil {
		return nil, err
	}
	var all []column
	kinds := map[string]string{}
	types := map[string]string{}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) < 3 {
			continue
		}
		name, typ, kind := untab(f[0]), untab(f[1]), f[2]
		kinds[name], types[name] = kind, typ
		if kind == "" || kind == "DEFAULT" {
			all = append(all, column{name, typ})
		}
	}
	if strings.TrimSpace(st.columns) == "" {
		return all, nil
	}
	names, except, err := columnList(st.columns)
	if err != nil {
		return nil, err
	}
	if except != nil {
		var out []column
		for _, col := range all {
			if !except[col.name] {
				out = append(out, col)
			}
		}
		return out, nil
	}
	var out []column
	seen := map[string]bool{}
	for _, name := range names {
		typ, ok := types[name]
		switch {
		case !ok:
			return nil, &exception{16, fmt.Sprintf("No such column %s in table %s", name, st.target)}
		case seen[name]:
			return nil, &exception{15, fmt.Sprintf("Column %s in table %s specified more than once", name, st.target)}
		case kinds[name] == "ALIAS", kinds[name] == "MATERIALIZED":
			return nil, &exception{44, fmt.Sprintf("Cannot insert column %s, because it is %s column", name, kinds[name])}
		}
		seen[name] = true
		out = append(out, column{name, typ})
	}
	return out, nil
}

// columnList reads "a, `b c`, n.x", or "* EXCEPT (a, b)" as the exceptions.
func columnList(text string) (names []string, except map[string]bool, err error) {
	s := scanned(text)
	from := 0
	if s.mark(0, '*') {
		except = map[string]bool{}
		from = 1
		if s.is(1, "EXCEPT") {
			from = 2
		}
	}
	var name strings.Builder
	for i := from; i <= len(s.tokens); i++ {
		switch {
		case i == len(s.tokens), s.mark(i, ','), s.mark(i, '('), s.mark(i, ')'):
			if name.Len() > 0 {
				names = append(names, name.String())
				name.Reset()
			}
		case s.mark(i, '.'):
			name.WriteByte('.')
		case s.tokens[i].kind == tokenMark || s.tokens[i].kind == tokenString:
			return nil, nil, &exception{codeSyntaxError, "Syntax error in the column list: (" + text + ")"}
		default:
			name.WriteString(unquote(s.raw(i)))
		}
	}
	if except != nil {
		for _, n := range names {
			except[n] = true
		}
	}
	return names, except, nil
}
