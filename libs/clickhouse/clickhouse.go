// Package clickhouse is everything that Sluice asks of ClickHouse: what a table looks like and what
// it makes of a repeated insert, how a table is made, which error means what, and the insert itself.
//
// Guaranteed: an Insert sends exactly one Data packet under one deduplication token, with the settings
// that the exactly-once protocol needs and that no user can change. A nil error means that the server has
// committed the block. Every error has a Class, decided in one place (Classify); "cannot tell" is
// the default, so that nothing is ever given up by mistake.
//
// Not guaranteed: that the table deduplicates. GuaranteeOf says whether it does, and what to change.
// Nothing here retries: who calls knows what may be sent again, and what must first be undone.
package clickhouse

import (
	"fmt"
	"strings"
)

// Version is the version of a server.
type Version struct{ Major, Minor int }

// AtLeast reports whether v is major.minor or newer.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// HasTokens reports whether the server knows insert_deduplication_token (ClickHouse #32304).
func (v Version) HasTokens() bool { return v.AtLeast(22, 2) }

// Quote makes an identifier of any name.
func Quote(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}

// quoteText makes a string literal of any text.
func quoteText(text string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(text) + "'"
}

// Name is the full name of a table.
type Name struct{ Database, Table string }

// Quoted is the name as it stands in SQL.
func (n Name) Quoted() string {
	if n.Database == "" {
		return Quote(n.Table) // a temporary table is in no database
	}
	return Quote(n.Database) + "." + Quote(n.Table)
}

func (n Name) String() string { return n.Database + "." + n.Table }
