package clickhouse

import (
	"context"
	"regexp"
	"strings"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Reading is what a table promises to those who read it back.
type Reading struct {
	// Atomic: a scan sees the table as it was when it was opened.
	Atomic bool
	// Removes and Changes say why rows that were written may leave the table, or become others, without anybody's doing;
	// empty when they do not.
	Removes, Changes []string
	// Lags: other replicas may have rows that the one that is read gets later.
	Lags bool
}

var (
	// removing and changing are the engines that merge rows of equal sorting keys, with what becomes of them.
	removing = regexp.MustCompile(`(Replacing|Collapsing)`)
	changing = regexp.MustCompile(`(Summing|Aggregating|Graphite|Coalescing)`)
	ttl      = regexp.MustCompile(`(?i)\bTTL\b`)
	quotes   = regexp.MustCompile("'(?:[^'\\\\]|\\\\.)*'|`(?:[^`\\\\]|\\\\.)*`")
)

// ReadingOf asks what can be expected of the table, and of those behind it, as far as this server sees them.
func ReadingOf(ctx context.Context, sink *controlv1.ClickHouseSink, t *Table) (*Reading, error) {
	conn, err := open(ctx, sink)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	d, err := newDescriber(ctx, conn)
	if err != nil {
		return nil, err
	}
	r := &Reading{Atomic: strings.HasSuffix(t.Engine, "MergeTree")}
	for ; t != nil; t = t.Target {
		rows, err := d.query(ctx, `SELECT create_table_query FROM system.tables WHERE database = `+
			quoteText(t.Name.Database)+` AND name = `+quoteText(t.Name.Table))
		if err != nil {
			return nil, err
		}
		create := t.Full
		if len(rows) > 0 {
			create = rows[0][0]
		}
		r.add(t, create)
	}
	return r, nil
}

func (r *Reading) add(t *Table, create string) {
	says := "table " + t.Name.String() + " "
	switch {
	case changing.MatchString(t.Engine):
		r.Changes = append(r.Changes, says+"has the engine "+t.Engine+", which makes one row of several")
	case removing.MatchString(t.Engine):
		r.Removes = append(r.Removes, says+"has the engine "+t.Engine+", which keeps one of several rows")
	case t.Engine == "Null":
		r.Removes = append(r.Removes, says+"has the engine Null, which keeps nothing")
	}
	if ttl.MatchString(quotes.ReplaceAllString(create, "")) {
		r.Changes = append(r.Changes, says+"has a TTL, after which rows or values leave it")
	}
	r.Lags = r.Lags || isReplicated(t.Engine) || t.Engine == "Distributed"
}
