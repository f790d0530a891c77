package clickhouse

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	driver "github.com/ClickHouse/clickhouse-go/v2"

	controlv1 "sluice/gen/sluice/control/v1"
)

// Table is what a server says of a table.
type Table struct {
	Name    Name
	Exists  bool
	Server  Version
	Engine  string // MergeTree, Distributed, …
	Full    string // the engine with its parameters and settings, as system.tables prints it
	Columns []Column
	// Window is the number of inserted blocks that the table remembers; 0: none. Only of MergeTree engines.
	Window uint64
	// Target is where a Distributed or Buffer table or a materialized view puts its rows, as far as it
	// can be seen from the server; else nil.
	Target *Table
	// Views are materialized views that every insert feeds, with the tables behind them in Target.
	Views []*Table
	// Addresses is how many addresses the sink names.
	Addresses int
}

// Column is a column that an INSERT may name. MATERIALIZED, ALIAS and EPHEMERAL ones are left out.
type Column struct {
	Name    string
	Type    string
	Default string // DEFAULT expression; empty when there is none
}

// Column returns the column of that name.
func (t *Table) Column(name string) (Column, bool) {
	for _, c := range t.Columns {
		if c.Name == name {
			return c, true
		}
	}
	return Column{}, false
}

// maxDepth is how far tables behind tables are followed: a view and its target are two.
const maxDepth = 10

// Describe asks the server for the sink's table. A table that does not exist is no error: see Exists.
func Describe(ctx context.Context, sink *controlv1.ClickHouseSink) (*Table, error) {
	conn, err := open(ctx, sink)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	d, err := newDescriber(ctx, conn)
	if err != nil {
		return nil, err
	}
	t, err := d.table(ctx, TableName(sink), maxDepth)
	if err != nil {
		return nil, err
	}
	t.Addresses = len(sink.GetAddr())
	return t, nil
}

// describer reads the system tables of one server. Their columns differ between versions, so it looks first.
type describer struct {
	conn    driver.Conn
	version Version
	has     map[string]bool // "tables.uuid", "columns.position", …
}

func newDescriber(ctx context.Context, conn driver.Conn) (*describer, error) {
	server, err := conn.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("clickhouse: ask for the version: %w", err)
	}
	d := &describer{conn: conn, version: Version{int(server.Version.Major), int(server.Version.Minor)}, has: map[string]bool{}}
	rows, err := d.query(ctx, `SELECT table, name FROM system.columns WHERE database = 'system'
		AND table IN ('columns', 'tables', 'merge_tree_settings', 'replicated_merge_tree_settings')`)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		d.has[r[0]+"."+r[1]] = true
	}
	return d, nil
}

// query returns rows of strings: every column must be a String.
func (d *describer) query(ctx context.Context, sql string) ([][]string, error) {
	rows, err := d.conn.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("clickhouse: read the system tables: %w", err)
	}
	defer rows.Close()
	var out [][]string
	for rows.Next() {
		row := make([]string, len(rows.Columns()))
		into := make([]any, len(row))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, fmt.Errorf("clickhouse: read the system tables: %w", err)
		}
		out = append(out, row)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("clickhouse: read the system tables: %w", err)
	}
	return out, nil
}

// table describes one table and, depth levels deep, the tables behind it.
func (d *describer) table(ctx context.Context, name Name, depth int) (*Table, error) {
	t := &Table{Name: name, Server: d.version}
	rows, err := d.query(ctx, `SELECT engine, engine_full FROM system.tables WHERE database = `+
		quoteText(name.Database)+` AND name = `+quoteText(name.Table))
	if err != nil || len(rows) == 0 {
		return t, err
	}
	t.Exists, t.Engine, t.Full = true, rows[0][0], rows[0][1]
	if err := d.columns(ctx, t); err != nil {
		return nil, err
	}
	if strings.HasSuffix(t.Engine, "MergeTree") {
		if t.Window, err = d.window(ctx, t); err != nil {
			return nil, err
		}
	}
	if depth == 0 {
		return t, nil
	}
	if target, ok := d.target(ctx, t); ok {
		// A table that cannot be described is one on other servers, most likely: say nothing of it.
		if behind, err := d.table(ctx, target, depth-1); err == nil && behind.Exists {
			t.Target = behind
		}
	}
	return t, d.views(ctx, t, depth-1)
}

func (d *describer) columns(ctx context.Context, t *Table) error {
	order := ""
	if d.has["columns.position"] {
		order = " ORDER BY position"
	}
	rows, err := d.query(ctx, `SELECT name, type, default_kind, default_expression FROM system.columns WHERE database = `+
		quoteText(t.Name.Database)+` AND table = `+quoteText(t.Name.Table)+order)
	if err != nil {
		return err
	}
	for _, r := range rows {
		switch r[2] {
		case "":
			t.Columns = append(t.Columns, Column{Name: r[0], Type: r[1]})
		case "DEFAULT":
			t.Columns = append(t.Columns, Column{Name: r[0], Type: r[1], Default: r[3]})
		}
	}
	return nil
}

// windowSetting is the setting that makes an engine remember blocks.
func windowSetting(engine string) string {
	if isReplicated(engine) {
		return "replicated_deduplication_window"
	}
	return "non_replicated_deduplication_window"
}

func isReplicated(engine string) bool {
	return strings.HasPrefix(engine, "Replicated") || strings.HasPrefix(engine, "Shared")
}

// window is the table's own setting, else the server's.
func (d *describer) window(ctx context.Context, t *Table) (uint64, error) {
	setting := windowSetting(t.Engine)
	if m := regexp.MustCompile(`\b` + setting + `\s*=\s*'?(\d+)`).FindStringSubmatch(t.Full); m != nil {
		return strconv.ParseUint(m[1], 10, 64)
	}
	for _, from := range []string{"replicated_merge_tree_settings", "merge_tree_settings"} {
		if !d.has[from+".value"] || from == "replicated_merge_tree_settings" && !isReplicated(t.Engine) {
			continue
		}
		rows, err := d.query(ctx, `SELECT value FROM system.`+from+` WHERE name = `+quoteText(setting))
		if err != nil {
			return 0, err
		}
		if len(rows) > 0 {
			return strconv.ParseUint(rows[0][0], 10, 64)
		}
	}
	return 0, nil // a server that does not know the setting
}

// target is the table that a table passes its rows to.
func (d *describer) target(ctx context.Context, t *Table) (Name, bool) {
	switch t.Engine {
	case "Distributed": // Distributed('cluster', 'database', 'table'[, sharding_key …])
		if args := engineArgs(t.Full); len(args) >= 3 {
			return Name{orDatabase(args[1], t.Name.Database), args[2]}, true
		}
	case "Buffer": // Buffer('database', 'table', …)
		if args := engineArgs(t.Full); len(args) >= 2 {
			return Name{orDatabase(args[0], t.Name.Database), args[1]}, true
		}
	case "MaterializedView":
		rows, err := d.query(ctx, `SELECT create_table_query FROM system.tables WHERE database = `+
			quoteText(t.Name.Database)+` AND name = `+quoteText(t.Name.Table))
		if err != nil || len(rows) == 0 {
			return Name{}, false
		}
		if name, ok := viewTarget(rows[0][0], t.Name); ok {
			return name, true
		}
		return d.innerTable(ctx, t.Name)
	}
	return Name{}, false
}

func orDatabase(name, otherwise string) string {
	if name == "" || name == "currentDatabase()" {
		return otherwise
	}
	return name
}

// engineArgs are the first simple arguments of an engine: quoted or bare words.
func engineArgs(full string) []string {
	_, rest, ok := strings.Cut(full, "(")
	if !ok {
		return nil
	}
	var args []string
	for _, part := range strings.Split(rest, ",") {
		part, _, _ = strings.Cut(strings.TrimSpace(part), ")")
		args = append(args, strings.Trim(part, "'`\""))
	}
	return args
}

var viewTo = regexp.MustCompile("(?i)\\bTO\\s+((?:`[^`]+`|\\w+)\\.)?(`[^`]+`|\\w+)")

// viewTarget reads the table of a materialized view out of its definition: the one after TO; false when it has a
// table of its own.
func viewTarget(create string, view Name) (Name, bool) {
	head, _, _ := strings.Cut(create, "SELECT")
	m := viewTo.FindStringSubmatch(head)
	if m == nil {
		return Name{}, false
	}
	unquote := func(s string) string { return strings.Trim(s, "`") }
	return Name{orDatabase(unquote(strings.TrimSuffix(m[1], ".")), view.Database), unquote(m[2])}, true
}

// innerTable is a materialized view's own table. Its name depends on the kind of its database.
func (d *describer) innerTable(ctx context.Context, view Name) (Name, bool) {
	inner := Name{view.Database, ".inner." + view.Table}
	if !d.has["tables.uuid"] {
		return inner, true
	}
	rows, err := d.query(ctx, `SELECT toString(uuid) FROM system.tables WHERE database = `+quoteText(view.Database)+` AND name = `+quoteText(view.Table))
	if err != nil || len(rows) == 0 {
		return Name{}, false
	}
	if rows[0][0] != "00000000-0000-0000-0000-000000000000" {
		inner.Table = ".inner_id." + rows[0][0]
	}
	return inner, true
}

// views finds the materialized views that the table feeds.
func (d *describer) views(ctx context.Context, t *Table, depth int) error {
	if !d.has["tables.dependencies_table"] || depth <= 0 {
		return nil
	}
	rows, err := d.query(ctx, `SELECT d, n FROM system.tables ARRAY JOIN dependencies_database AS d, dependencies_table AS n
		WHERE database = `+quoteText(t.Name.Database)+` AND name = `+quoteText(t.Name.Table))
	if err != nil {
		return err
	}
	for _, r := range rows {
		v, err := d.table(ctx, Name{r[0], r[1]}, depth)
		if err != nil {
			return err
		}
		if v.Engine == "MaterializedView" {
			t.Views = append(t.Views, v)
		}
	}
	return nil
}
