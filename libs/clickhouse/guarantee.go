package clickhouse

import (
	"fmt"
	"strings"
	"time"

	controlv1 "sluice/gen/sluice/control/v1"
)

// DefaultWindow is the deduplication window that Sluice sets where it is asked to: what replicated tables
// have by default since 25.9. Each entry is a small line in a local file.
const DefaultWindow = 10000

// GuaranteeOf says what the table makes of an insert that is sent again, why, and what to change for
// exactly once.
func GuaranteeOf(t *Table) *controlv1.Guarantee {
	g := &controlv1.Guarantee{Level: controlv1.Guarantee_AT_LEAST_ONCE, Engine: t.Engine, DeduplicationWindow: t.Window}
	say := func(reason, remedy string) *controlv1.Guarantee {
		g.Reason, g.Remedy = reason, remedy
		return g
	}
	switch {
	case !t.Exists:
		return say(fmt.Sprintf("table %s does not exist.", t.Name), "create it, or set create_table: true")
	case !t.Server.HasTokens():
		return say(fmt.Sprintf("ClickHouse %s is too old for insert_deduplication_token: a block whose answer was lost may be inserted twice.", t.Server),
			"upgrade the server to 22.2 or newer")
	case strings.HasSuffix(t.Engine, "MergeTree"):
		return mergeTree(t, g)
	}
	switch t.Engine {
	case "Distributed":
		if t.Target != nil {
			inner := GuaranteeOf(t.Target)
			return say("inserts go through a Distributed table in the foreground (distributed_foreground_insert = 1 is sent): each shard commits by itself, "+
				"and a retry must reach the same shards with the same rows. Behind it: "+inner.Reason,
				"let the pipeline write to the local table "+t.Target.Name.String()+" directly"+andThen(inner.Remedy))
		}
		return say("inserts go through a Distributed table in the foreground (distributed_foreground_insert = 1 is sent): each shard commits by itself, "+
			"and the tables behind it cannot be seen from here.", "let the pipeline write to the local, replicated tables directly")
	case "Buffer":
		remedy := "let the pipeline write to the table behind the buffer: Sluice makes large blocks itself"
		if t.Target != nil {
			remedy = "let the pipeline write to " + t.Target.Name.String() + ": Sluice makes large blocks itself"
		}
		return say("a Buffer table keeps rows in memory, forgets them when the server stops, and does not recognise a repeated block.", remedy)
	case "Null":
		return say("a Null table keeps nothing: rows are gone, except what materialized views make of them, and a repeated block reaches those again.",
			"use a MergeTree table with a deduplication window")
	case "MaterializedView":
		if t.Target != nil {
			return say("inserting into a materialized view writes to "+t.Target.Name.String()+" without transforming anything.",
				"let the pipeline write to "+t.Target.Name.String()+andThen(GuaranteeOf(t.Target).Remedy))
		}
		return say("inserting into a materialized view writes to the table behind it.", "let the pipeline write to that table")
	case "View", "LiveView", "WindowView":
		return say("a view takes no inserts.", "let the pipeline write to a table")
	case "Log", "TinyLog", "StripeLog":
		return say("an engine of the Log family does not recognise a repeated block.", useMergeTree)
	case "Memory", "Set", "Join":
		return say("the engine "+t.Engine+" does not recognise a repeated block, and keeps its rows in memory.", useMergeTree)
	case "Kafka", "RabbitMQ", "NATS", "FileLog", "S3Queue", "AzureQueue":
		return say("the engine "+t.Engine+" passes rows on to another system and does not recognise a repeated block.", useMergeTree)
	case "EmbeddedRocksDB", "KeeperMap", "Redis":
		return say("the engine "+t.Engine+" keeps one row a key: a repeated block changes nothing if no later block wrote its keys, "+
			"but it is not recognised as a repeat.", useMergeTree)
	}
	return say("the engine "+t.Engine+" does not recognise a repeated block.", useMergeTree)
}

const useMergeTree = "use an engine of the MergeTree family with a deduplication window"

func andThen(remedy string) string {
	if remedy == "" {
		return ""
	}
	return ", and " + remedy
}

func mergeTree(t *Table, g *controlv1.Guarantee) *controlv1.Guarantee {
	setting := windowSetting(t.Engine)
	if t.Window == 0 {
		g.Reason = fmt.Sprintf("%s of %s is 0: the table does not recognise a repeated block.", setting, t.Name)
		g.Remedy = WindowStatement(t)
		if !isReplicated(t.Engine) {
			g.Remedy += ", or set_deduplication_window: true in the pipeline"
		}
		return g
	}
	if t.Addresses > 1 && !isReplicated(t.Engine) {
		g.Reason = fmt.Sprintf("the sink names %d addresses, but %s is not replicated: a block that is sent again to another address is not recognised there.",
			t.Addresses, t.Engine)
		g.Remedy = "name one address, or use a Replicated engine (nothing need change if all addresses lead to the same server)"
		return g
	}
	g.DeduplicationWindow = smallestWindow(t)
	if reason, remedy := weakView(t); reason != "" {
		g.Reason = fmt.Sprintf("%s recognises a repeated block, but %s", t.Name, reason)
		g.Remedy = remedy
		return g
	}
	g.Level = controlv1.Guarantee_EXACTLY_ONCE
	g.Reason = fmt.Sprintf("%s remembers the last %d blocks (%s): a block that is sent again is recognised by its token.", t.Name, t.Window, setting)
	if g.GetDeduplicationWindow() < t.Window {
		g.Reason += fmt.Sprintf(" A table behind its materialized views remembers only %d.", g.GetDeduplicationWindow())
	}
	return g
}

// weakView tells of a materialized view that a repeated block would reach again, and what to change. Every table behind
// a view recognises repeats by itself, also where the table before it has recognised them already.
func weakView(t *Table) (reason, remedy string) {
	for _, v := range t.Views {
		target := v.Target
		switch {
		case target == nil:
			return fmt.Sprintf("where the materialized view %s writes to cannot be seen.", v.Name),
				"let the user of the pipeline see the table behind the view (GRANT SHOW TABLES), or drop the view"
		case strings.HasSuffix(target.Engine, "MergeTree") && target.Window == 0:
			return fmt.Sprintf("the materialized view %s writes to %s, which does not.", v.Name, target.Name), WindowStatement(target)
		case !strings.HasSuffix(target.Engine, "MergeTree") && target.Engine != "Null":
			return fmt.Sprintf("the materialized view %s writes to %s, a %s table, which does not.", v.Name, target.Name, target.Engine),
				"let the view write to a table of the MergeTree family with a deduplication window"
		}
		if reason, remedy := weakView(target); reason != "" {
			return reason, remedy
		}
	}
	return "", ""
}

// smallestWindow is the window of the table or of a table behind its views, whichever forgets first; 0: none has one.
func smallestWindow(t *Table) uint64 {
	window := t.Window
	for _, v := range t.Views {
		if v.Target == nil {
			continue
		}
		if behind := smallestWindow(v.Target); behind > 0 && (window == 0 || behind < window) {
			window = behind
		}
	}
	return window
}

// WindowStatement is the statement that gives a table a deduplication window.
func WindowStatement(t *Table) string {
	return fmt.Sprintf("ALTER TABLE %s MODIFY SETTING %s = %d", t.Name.Quoted(), windowSetting(t.Engine), DefaultWindow)
}

// Coverage estimates for how long a block may remain in doubt, while the pipeline's other lanes go on inserting,
// before the table forgets its token. An outage in which nothing is inserted uses nothing up.
func Coverage(window uint64, lanes uint32, maxDelay time.Duration) time.Duration {
	if lanes <= 1 {
		// The lane in doubt is the only one: it inserts nothing else.
		return 1<<63 - 1
	}
	// Each of the other lanes inserts a block every maxDelay, when it is busy.
	perBlock := maxDelay / time.Duration(lanes-1)
	if perBlock > 0 && window > uint64(1<<63-1)/uint64(perBlock) {
		return 1<<63 - 1
	}
	return time.Duration(window) * perBlock
}
