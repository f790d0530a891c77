//go:build unix

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"sluice/e2e/internal/stack"
	"sluice/libs/playground/kafka/kafkatest"
)

// As TestAnEarlierCopyIsPutBack, of a join: orders, of which copies are dropped by another key than the join's, with users. Every pair is in the table
// once after each loss, and at the end every order that has met nobody.
func TestAnEarlierCopyIsPutBackUnderAJoin(t *testing.T) {
	const (
		partitions = 2
		window     = 30 * time.Minute
	)
	kafka := kafkatest.StartReal(t, kafkatest.Options{})
	s := runJoinStack(t)
	table := stack.OpenSQL(t, s.ClickHouseAddr)
	table.Exec(`CREATE TABLE joined (id UInt32, orders_n UInt32, seq UInt32, name String) ENGINE = MergeTree ORDER BY id
		SETTINGS non_replicated_deduplication_window = 10000`)
	orders, users := stack.NewProducer(t, kafka.Addr(), "orders", partitions), stack.NewProducer(t, kafka.Addr(), "users", partitions)
	begin := time.Now().Add(-4 * time.Hour).Truncate(time.Second)
	type row struct {
		at   time.Time
		key  int
		text string
	}
	n := 0
	var lefts, rights []row
	seen := map[int]bool{}
	order := func(at time.Time) {
		n++
		id, key := n*7919%(n/2+10), n%97 // about half are of orders from before
		if key%10 == 0 {
			key = 1_000_000 + id // of a user that there is not
		}
		if !seen[id] {
			seen[id] = true
			lefts = append(lefts, row{at, key, fmt.Sprintf("%d|%d", id, n)})
		}
		orders.Send(int32(id%partitions), nil, fmt.Appendf(nil, `{"id":%d,"orders_n":%d,"user":"u%d","at":%d}`, id, n, key, at.UnixMilli()))
	}
	user := func(at time.Time) {
		n++
		rights = append(rights, row{at, n % 97, fmt.Sprintf("%d|name %d", n, n%97)})
		users.Send(int32(n%partitions), nil, fmt.Appendf(nil, `{"user":"u%d","seq":%d,"name":"name %d","at":%d}`, n%97, n, n%97, at.UnixMilli()))
	}
	at := begin
	send := func(events int) {
		for range events {
			at = at.Add(time.Second)
			if n%5 == 0 {
				user(at)
			} else {
				order(at)
			}
		}
		orders.Flush()
		users.Flush()
		s.Wait("joined", 2*time.Minute)
	}
	// truth is every pair, and what met nobody.
	truth := func() (pairs, alone []string) {
		byKey := map[int][]row{}
		for _, r := range rights {
			byKey[r.key] = append(byKey[r.key], r)
		}
		for _, l := range lefts {
			met := false
			for _, r := range byKey[l.key] {
				if l.at.Sub(r.at).Abs() <= window {
					met, pairs = true, append(pairs, l.text+"|"+r.text)
				}
			}
			if !met {
				alone = append(alone, l.text+"|0|")
			}
		}
		return pairs, alone
	}
	s.Apply(fmt.Sprintf(`
id: joined
sources:
  orders: {kafka: {brokers: ["%[1]s"], topic: orders}, time: at, dedup: {key: [id], window: 24h}}
  users: {kafka: {brokers: ["%[1]s"], topic: users}, time: at, dedup: {key: [seq], window: 24h}}
join: {left: orders, right: users, on: [{left: user, right: user}], window: %[3]s, grace: 1h, type: LEFT}
sink: {clickhouse: {addr: ["%[2]s"], table: joined}}
columns:
- {name: id, from: orders.id}
- {name: orders_n, from: orders.orders_n}
- {name: seq, from: users.seq}
- {name: name, from: users.name}
batch: {max_delay: 20ms}
lanes: 2
`, kafka.Addr(), s.ClickHouseAddr, window))
	store := &natsStore{t: t, Stack: s.Stack, services: append(slices.Clone(stack.Services), "join")}
	const query = "SELECT id, orders_n, seq, name FROM joined"
	met := func() []string {
		return table.Rows(query + " WHERE seq > 0")
	}
	empty := store.copy()
	send(600)
	for _, what := range []struct{ name, stream, says string }{
		{"the state", "KV_sluice_joined_state", "went back"},
		{"the ingest log", "sluice_joined_ingest", "lost its tail"},
		{"the dedup log", "sluice_joined_dedup", "lost its tail"},
		{"the join log", "sluice_joined_join", "lost its tail"},
		{"the join log and its input", "sluice_joined_join,sluice_joined_dedup", "lost its tail"},
		{"the join log and its input, under a join that is killed", "sluice_joined_join,sluice_joined_dedup", "lost its tail"},
		{"all logs, under a join that is killed", "sluice_joined_join,sluice_joined_dedup,sluice_joined_ingest", "lost its tail"},
		{"everything", "", "the store went back"},
		{"everything, under a table that forgets", "", "the store went back"},
		{"all there ever was", "", "has nothing of it"},
	} {
		earlier := store.copy()
		switch what.name {
		case "everything, under a table that forgets":
			table.Exec("ALTER TABLE joined MODIFY SETTING non_replicated_deduplication_window = 2")
		case "all there ever was":
			earlier = empty
		}
		for range 4 {
			send(100) // many blocks
		}
		if strings.HasSuffix(what.name, "under a join that is killed") { // what the table has is in no checkpoint
			store.killed = []string{"join"}
		}
		store.putBack(earlier, what.stream)
		store.killed = nil
		send(200)
		pairs, _ := truth()
		stack.Await(t, 2*time.Minute, "the pairs are there after the loss of "+what.name, func() (bool, any) {
			there := len(met())
			return there >= len(pairs), stack.Later(func() string {
				return fmt.Sprintf("%d of %d\n%s", there, len(pairs), s.Run("", "status", "joined").Stdout)
			})
		})
		requireRows(t, pairs, met())
		require.Empty(t, s.DeadLetters("joined"), what.name)
		stack.Await(t, 2*time.Minute, "the status says what was found after the loss of "+what.name, func() (bool, any) {
			errors := strings.Join(s.Status("joined").Errors, "\n")
			return strings.Contains(errors, what.says), errors
		})
		t.Logf("after the loss of %s: %s", what.name, strings.Join(s.Status("joined").Errors, "\n"))
	}
	// Everything is decided once every partition is beyond it.
	at = at.Add(2 * time.Hour)
	for partition := range int32(partitions) {
		orders.Send(partition, nil, fmt.Appendf(nil, `{"id":%d,"orders_n":1,"at":%d}`, 2_000_000+partition, at.UnixMilli()))
		users.Send(partition, nil, fmt.Appendf(nil, `{"seq":%d,"name":"","at":%d}`, 2_000_000+partition, at.UnixMilli()))
	}
	orders.Flush()
	users.Flush()
	pairs, alone := truth()
	want := slices.Concat(pairs, alone, []string{"2000000|1|0|", "2000001|1|0|"}) // without a key: alone at once
	awaitRows(t, s.CLI, table, "joined", "joined", len(want))
	s.Wait("joined", 2*time.Minute)
	requireRows(t, want, table.Rows(query))
	require.Empty(t, s.DeadLetters("joined"))
	r := s.Run("", "verify", "joined")
	require.Zero(t, r.Code, r.Stdout+r.Stderr)
}
