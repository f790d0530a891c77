package clickhouse

import (
	"strings"
)

type statementKind uint8

const (
	other      statementKind = iota // runs as it is, may answer with rows
	selects                         // answers with rows, block by block
	insertRows                      // INSERT whose rows the client sends, or that stand in the text in another format than VALUES
	sets                            // SET: changes the session
	kills                           // KILL QUERY
)

// statement is a query's text taken apart as far as this server has to know it.
type statement struct {
	kind statementKind
	text string // without FORMAT and INTO OUTFILE: these are for the client to do
	word string // the first word, upper case

	// of an INSERT
	insert   bool   // with whatever follows
	head     string // up to the column list
	target   string // table or table function
	columns  string // the column list as written, without brackets; "" when there is none
	settings string // "SETTINGS …" as written
	format   string // of the rows
	inline   string // rows in the text
}

type scan struct {
	text   string
	tokens []token
}

// scanned is all of a text.
func scanned(text string) *scan {
	s := &scan{text: text}
	lex := lexer{text: text}
	for {
		t, ok := lex.next()
		if !ok {
			return s
		}
		s.tokens = append(s.tokens, t)
	}
}

func (s *scan) is(i int, word string) bool {
	return i < len(s.tokens) && s.tokens[i].kind == tokenWord && strings.EqualFold(s.raw(i), word)
}

func (s *scan) mark(i int, c byte) bool {
	return i < len(s.tokens) && s.tokens[i].kind == tokenMark && s.text[s.tokens[i].start] == c
}

func (s *scan) raw(i int) string { return s.text[s.tokens[i].start:s.tokens[i].end] }

var errManyStatements = &exception{codeSyntaxError, "Syntax error (Multi-statements are not allowed)"}

// parseStatement takes a query apart. What it does not understand it leaves to the engine, which says what is wrong.
func parseStatement(query string) (*statement, error) {
	if st, ok := parseInsert(query); ok {
		if st.inline == "" || strings.EqualFold(st.format, "Values") {
			if err := oneStatement(query); err != nil {
				return nil, err
			}
		}
		return st, nil
	}
	s := scanned(query)
	for i := range s.tokens {
		if s.mark(i, ';') {
			if i+1 < len(s.tokens) {
				return nil, errManyStatements
			}
			s.tokens, s.text = s.tokens[:i], query[:s.tokens[i].start]
		}
	}
	st := &statement{text: s.text}
	if len(s.tokens) == 0 {
		return nil, &exception{codeSyntaxError, "Syntax error: Empty query"}
	}
	if s.tokens[0].kind == tokenWord {
		st.word = strings.ToUpper(s.raw(0))
	}
	for i := range s.tokens {
		if s.tokens[i].depth == 0 && s.is(i, "INSERT") && s.is(i+1, "INTO") {
			st.insert = true // WITH … INSERT INTO … SELECT, EXPLAIN INSERT …
		}
	}
	switch {
	case st.word == "SET" && !s.is(1, "ROLE") && !s.is(1, "DEFAULT"):
		st.kind = sets
	case st.word == "KILL" && s.is(1, "QUERY"):
		st.kind = kills
	case st.insert:
	case st.word == "SELECT", st.word == "WITH", st.word == "FROM", s.mark(0, '('):
		st.kind = selects
	}
	if st.word != "CREATE" && st.word != "ATTACH" && st.word != "ALTER" { // where FORMAT may be part of a definition
		st.text = withoutOutput(s)
	}
	if n := len(s.tokens); s.is(n-1, "SYNC") && (st.word == "DROP" || st.word == "DETACH" || st.word == "TRUNCATE") {
		// The engine never gets to remove a dropped table's files while it runs, so SYNC would wait for ever. The table is
		// gone for all queries at once.
		st.text = s.text[:s.tokens[n-1].start]
	}
	return st, nil
}

// oneStatement refuses text after a semicolon.
func oneStatement(query string) error {
	lex := lexer{text: query}
	ended := false
	for {
		t, ok := lex.next()
		if !ok {
			return nil
		}
		if ended {
			return errManyStatements
		}
		ended = t.kind == tokenMark && query[t.start] == ';'
	}
}

// withoutOutput leaves out FORMAT and INTO OUTFILE.
func withoutOutput(s *scan) string {
	var b strings.Builder
	from := 0
	for i := 0; i < len(s.tokens); i++ {
		if s.tokens[i].depth != 0 {
			continue
		}
		end := i
		switch {
		case s.is(i, "FORMAT") && i > 0 && i+1 < len(s.tokens) && s.tokens[i+1].kind == tokenWord &&
			(i+2 == len(s.tokens) || s.is(i+2, "SETTINGS") || s.is(i+2, "INTO")):
			end = i + 2
		case s.is(i, "INTO") && s.is(i+1, "OUTFILE"):
			for end < len(s.tokens) && !s.is(end, "FORMAT") && !s.is(end, "SETTINGS") {
				end++
			}
		default:
			continue
		}
		b.WriteString(s.text[from:s.tokens[i].start])
		from = len(s.text)
		if end < len(s.tokens) {
			from = s.tokens[end].start
		}
		i = end - 1
	}
	b.WriteString(s.text[from:])
	return b.String()
}

// parseInsert takes INSERT INTO apart; ok is false when the text is something else. The rows in the text, which need not
// be SQL, are not looked at.
func parseInsert(query string) (*statement, bool) {
	s := &scan{text: query}
	lex := lexer{text: query}
	rest := -1 // where the rows begin
	pull := func(i int) bool {
		for len(s.tokens) <= i && rest < 0 {
			t, ok := lex.next()
			if !ok {
				return false
			}
			s.tokens = append(s.tokens, t)
		}
		return len(s.tokens) > i
	}
	toClosing := func(i int) int {
		for j := i + 1; pull(j); j++ {
			if s.tokens[j].depth == s.tokens[i].depth && strings.IndexByte(")]}", query[s.tokens[j].start]) >= 0 && s.tokens[j].kind == tokenMark {
				return j
			}
		}
		return len(s.tokens)
	}
	if !pull(1) || !s.is(0, "INSERT") || !s.is(1, "INTO") {
		return nil, false
	}
	st := &statement{text: query, word: "INSERT", insert: true}
	i := 2
	if pull(i+1) && s.is(i, "TABLE") && !s.mark(i+1, '.') {
		i++
	}
	if !pull(i) {
		return st, true // the engine says what is missing
	}
	first := i
	if s.is(i, "FUNCTION") && pull(i+2) && s.mark(i+2, '(') {
		first = i + 1
		i = toClosing(i+2) + 1
		if pull(i+1) && s.is(i, "PARTITION") && s.is(i+1, "BY") {
			return st, true
		}
	} else {
		i++
		for pull(i+1) && s.mark(i, '.') {
			i += 2
		}
	}
	if i > len(s.tokens) {
		return st, true
	}
	st.target = query[s.tokens[first].start:s.tokens[i-1].end]
	st.head = query[:s.tokens[i-1].end]
	if pull(i+1) && s.mark(i, '(') && !s.is(i+1, "SELECT") && !s.is(i+1, "WITH") && !s.mark(i+1, '(') {
		end := toClosing(i)
		if end >= len(s.tokens) {
			return st, true
		}
		st.columns = query[s.tokens[i].end:s.tokens[end].start]
		st.head = query[:s.tokens[end].end]
		i = end + 1
	}
	if pull(i) && s.is(i, "SETTINGS") {
		from := s.tokens[i].start
		for i++; pull(i); i++ {
			if s.is(i, "VALUES") || s.is(i, "FORMAT") || s.is(i, "SELECT") || s.is(i, "WITH") || s.mark(i, '(') && s.tokens[i].depth == 0 {
				break
			}
		}
		st.settings = query[from:s.tokens[i-1].end]
	}
	switch {
	case !pull(i), s.mark(i, ';'): // the client sends the rows, as after VALUES
		st.kind, st.format = insertRows, "Values"
		return st, true
	case s.is(i, "VALUES"):
		st.format, rest = "Values", s.tokens[i].end
	case s.is(i, "FORMAT") && pull(i+1):
		st.format, rest = s.raw(i+1), s.tokens[i+1].end
		if s.is(i+1, "VALUES") {
			st.format = "Values"
		}
		if pull(i+2) && s.is(i+2, "SETTINGS") { // FORMAT x SETTINGS …: the engine takes both orders
			return st, true
		}
		rest = s.tokens[i+1].end
	default: // SELECT, FROM INFILE, WATCH
		return st, true
	}
	st.inline = strings.Trim(query[rest:], " \t\r\n")
	if st.inline == ";" {
		st.inline = ""
	}
	if st.inline == "" || !strings.EqualFold(st.format, "Values") {
		st.kind = insertRows
	}
	return st, true
}
