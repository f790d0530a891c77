package clickhouse

import (
	"strings"
)

// token is a piece of SQL text. Comments and spaces are not tokens.
type token struct {
	kind       tokenKind
	start, end int // bytes in the text
	depth      int // of brackets around it
}

type tokenKind uint8

const (
	tokenWord   tokenKind = iota // bare identifier, keyword or number
	tokenName                    // `identifier` or "identifier"
	tokenString                  // 'text' or $$text$$
	tokenMark                    // one character of punctuation
)

// lexer cuts SQL text into tokens: as much of the grammar as is needed to find a statement's clauses.
type lexer struct {
	text  string
	at    int
	depth int
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// next is the next token; ok is false at the end of the text.
func (l *lexer) next() (t token, ok bool) {
	l.skip()
	if l.at >= len(l.text) {
		return token{}, false
	}
	t = token{start: l.at, depth: l.depth}
	switch c := l.text[l.at]; {
	case c == '\'' || c == '`' || c == '"':
		t.kind = tokenName
		if c == '\'' {
			t.kind = tokenString
		}
		if l.at = quotedEnd(l.text, l.at); l.at < 0 {
			l.at = len(l.text)
		}
	case c == '$' && l.heredoc():
		t.kind = tokenString
	case isWord(c):
		t.kind = tokenWord
		for l.at < len(l.text) && isWord(l.text[l.at]) {
			l.at++
		}
	default:
		t.kind = tokenMark
		l.at++
		switch c {
		case '(', '[', '{':
			l.depth++
		case ')', ']', '}':
			l.depth--
			t.depth = l.depth
		}
	}
	t.end = l.at
	return t, true
}

// skip passes over spaces and comments.
func (l *lexer) skip() {
	for l.at < len(l.text) {
		rest := l.text[l.at:]
		switch {
		case strings.IndexByte(" \t\r\n\v\f\x00", rest[0]) >= 0:
			l.at++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			if n := strings.IndexByte(rest, '\n'); n >= 0 {
				l.at += n + 1
			} else {
				l.at = len(l.text)
			}
		case strings.HasPrefix(rest, "/*"):
			if n := strings.Index(rest[2:], "*/"); n >= 0 {
				l.at += n + 4
			} else {
				l.at = len(l.text)
			}
		default:
			return
		}
	}
}

// heredoc passes over $tag$text$tag$, if that is what begins here.
func (l *lexer) heredoc() bool {
	rest := l.text[l.at:]
	n := strings.IndexByte(rest[1:], '$')
	if n < 0 || strings.ContainsFunc(rest[1:n+1], func(r rune) bool { return r > 0x7f || !isWord(byte(r)) }) {
		return false
	}
	tag := rest[:n+2]
	end := strings.Index(rest[len(tag):], tag)
	if end < 0 {
		return false
	}
	l.at += end + 2*len(tag)
	return true
}

// unquote is the identifier or text that a token stands for.
func unquote(s string) string {
	if s == "" {
		return s
	}
	quote := s[0]
	if len(s) < 2 || quote != '\'' && quote != '`' && quote != '"' {
		return s
	}
	s = s[1 : len(s)-1]
	if strings.IndexByte(s, '\\') < 0 && strings.IndexByte(s, quote) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s):
			i++
			switch s[i] {
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			case 'r':
				c = '\r'
			case '0':
				c = 0
			case 'b':
				c = '\b'
			case 'f':
				c = '\f'
			case 'a':
				c = '\a'
			case 'v':
				c = '\v'
			case 'x':
				if i+2 < len(s) {
					hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
					if hi >= 0 && lo >= 0 {
						b.WriteByte(byte(hi<<4 | lo))
						i += 2
						continue
					}
				}
				c = 'x'
			default:
				c = s[i]
			}
		case c == quote && i+1 < len(s) && s[i+1] == quote:
			i++
		}
		b.WriteByte(c)
	}
	return b.String()
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// quoteText makes a string literal, quoteName a quoted identifier.
func quoteText(s string) string { return quoteWith(s, '\'') }
func quoteName(s string) string { return quoteWith(s, '`') }

func quoteWith(s string, quote byte) string {
	var b strings.Builder
	b.WriteByte(quote)
	for i := 0; i < len(s); i++ {
		if s[i] == quote || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte(quote)
	return b.String()
}
