package clickhouse

import (
	"strings"
)

// killedIDs reads KILL QUERY WHERE query_id = '…' or IN ('…', …) [SYNC]. With any other condition the statement goes to
// the engine, which has its own ids.
func killedIDs(text string) (ids []string, ok bool) {
	s := scanned(text)
	if !s.is(2, "WHERE") || len(s.tokens) < 6 || unquote(s.raw(3)) != "query_id" {
		return nil, false
	}
	var i int
	switch {
	case s.mark(4, '='):
		i = 5
		if s.mark(5, '=') {
			i = 6
		}
		if i >= len(s.tokens) || s.tokens[i].kind != tokenString {
			return nil, false
		}
		ids = append(ids, unquote(s.raw(i)))
		i++
	case s.is(4, "IN") && s.mark(5, '('):
		for i = 6; i < len(s.tokens) && !s.mark(i, ')'); i++ {
			switch {
			case s.tokens[i].kind == tokenString:
				ids = append(ids, unquote(s.raw(i)))
			case !s.mark(i, ','):
				return nil, false
			}
		}
		i++
	default:
		return nil, false
	}
	if i < len(s.tokens) && !s.is(i, "SYNC") && !s.is(i, "ASYNC") || i+1 < len(s.tokens) {
		return nil, false
	}
	return ids, true
}

// killedPrefix reads KILL QUERY WHERE query_id LIKE '…%' [SYNC].
func killedPrefix(text string) (prefix string, ok bool) {
	s := scanned(text)
	if !s.is(2, "WHERE") || len(s.tokens) < 6 || unquote(s.raw(3)) != "query_id" || !s.is(4, "LIKE") || s.tokens[5].kind != tokenString {
		return "", false
	}
	if len(s.tokens) > 7 || len(s.tokens) == 7 && !s.is(6, "SYNC") && !s.is(6, "ASYNC") {
		return "", false
	}
	prefix, ok = strings.CutSuffix(unquote(s.raw(5)), "%")
	prefix = strings.ReplaceAll(prefix, `\_`, "_")
	return prefix, ok && !strings.ContainsAny(prefix, `%\`)
}

// kill ends the given queries and answers when they have ended: whatever they wrote is visible by then, or
// never will be. ASYNC waits, too.
func (c *conn) kill(self *running, queries []*running) error {
	columns := []column{{"kill_status", "String"}, {"query_id", "String"}, {"user", "String"}, {"query", "String"}}
	var killed []*running
	for _, q := range queries {
		if q == self {
			continue
		}
		if err := q.end(c.session.link, c.server.stop); err != nil {
			return err
		}
		killed = append(killed, q)
	}
	if err := c.send(c.headerBlock(columns)); err != nil {
		return clientError{err}
	}
	if len(killed) == 0 {
		return nil
	}
	values := make([][]string, len(columns))
	for _, q := range killed {
		for i, v := range []string{"finished", q.id, "default", q.text} {
			values[i] = append(values[i], v)
		}
	}
	if err := c.send(c.block(columns, values, len(killed))); err != nil {
		return clientError{err}
	}
	return nil
}

func cancelTagged(by *link, tag string) error {
	var b strings.Builder
	b.WriteString("KILL QUERY WHERE Settings[")
	b.WriteString(quoteText(tagSetting))
	b.WriteString("] = ")
	b.WriteString(quoteText(tag))
	b.WriteString(" ASYNC")
	_, err := by.query(b.String(), "Null")
	return err
}
