package clickhouse_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	chgo "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	"sluice/libs/playground/clickhouse/clickhousetest"
)

const events = "CREATE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100"

func insert(ctx context.Context, c *ch.Client, token string, values ...uint64) error {
	a, s := proto.ColUInt64(values), proto.ColStr{}
	for _, v := range values {
		s.Append(fmt.Sprint("\n\n", v))
	}
	return c.Do(ctx, ch.Query{
		Body:  "INSERT INTO t (a, s) VALUES",
		Input: proto.Input{{Name: "a", Data: &a}, {Name: "s", Data: &s}},
		Settings: []ch.Setting{
			{Key: "insert_deduplication_token", Value: token, Important: true},
			{Key: "async_insert", Value: "0", Important: true},
		},
	})
}

func TestTokenDeduplicates(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	conn := dial(t, addr, db)
	require.NoError(t, conn.Exec(t.Context(), events))
	for _, compression := range []ch.Compression{ch.CompressionDisabled, ch.CompressionLZ4, ch.CompressionZSTD} {
		c, err := ch.Dial(t.Context(), ch.Options{Address: addr, Database: db, Compression: compression})
		require.NoError(t, err)
		require.NoError(t, insert(t.Context(), c, "one", 1, 2, 3))
		require.NoError(t, insert(t.Context(), c, "one", 1, 2, 3))
		require.NoError(t, insert(t.Context(), c, "one", 7, 8, 9), "the token counts, not the rows")
		require.EqualValues(t, 3, count(t, conn, "t"))
		require.NoError(t, c.Close())
	}
	c, err := ch.Dial(t.Context(), ch.Options{Address: addr, Database: db})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, insert(t.Context(), c, "two", 1, 2, 3))
	require.EqualValues(t, 6, count(t, conn, "t"))
	require.NoError(t, insert(t.Context(), c, "three"))
	require.EqualValues(t, 6, count(t, conn, "t"))
}

func TestExceptions(t *testing.T) {
	conn := connect(t)
	require.NoError(t, conn.Exec(t.Context(), events))
	for query, want := range map[string]int32{
		"SELECT * FROM nosuch":                  60,
		"SELECT * FROM nosuch.t":                81,
		"SELEC 1":                               62,
		"SELECT 1; SELECT 2":                    62,
		"SELECT nosuch FROM t":                  47,
		"SELECT throwIf(1)":                     395,
		"SELECT 1 SETTINGS nosuch_setting = 1":  115,
		"INSERT INTO nosuch (a) VALUES (1)":     60,
		"INSERT INTO t (nosuch) VALUES (1)":     16,
		"CREATE TABLE t (a UInt8) ENGINE = Log": 57,
	} {
		t.Run(query, func(t *testing.T) {
			var e *chgo.Exception
			require.ErrorAs(t, conn.Exec(t.Context(), query), &e)
			require.Equal(t, want, e.Code, e.Message)
			require.Equal(t, "DB::Exception", e.Name)
			require.NotContains(t, e.Message, "Code:")
		})
	}
	_, err := conn.PrepareBatch(t.Context(), "INSERT INTO nosuch")
	var e *chgo.Exception
	require.ErrorAs(t, err, &e)
	require.EqualValues(t, 60, e.Code)
	require.NoError(t, conn.Ping(t.Context()), "the connection lives on")

	addr, _ := clickhousetest.StartDB(t)
	other, err := chgo.Open(&chgo.Options{Addr: []string{addr}, Auth: chgo.Auth{Database: "nosuch"}})
	require.NoError(t, err)
	require.ErrorAs(t, other.Ping(t.Context()), &e)
	require.EqualValues(t, 81, e.Code)
	require.NoError(t, other.Close())
}

func TestStatements(t *testing.T) {
	conn := connect(t)
	ctx := t.Context()
	require.NoError(t, conn.Exec(ctx, events))
	require.NoError(t, conn.Exec(ctx, "INSERT INTO t VALUES (1, 'a\n\n;b'), (2, 'x');"))
	require.NoError(t, conn.Exec(ctx, "INSERT INTO t SELECT number, 'n' FROM numbers(10, 5)"))
	require.NoError(t, conn.Exec(ctx, "INSERT INTO t FORMAT JSONEachRow {\"a\": 99, \"s\": \"j\"}\n\n{\"a\": 100, \"s\": \"k\"}"))
	require.EqualValues(t, 9, count(t, conn, "t"))
	var s string
	require.NoError(t, conn.QueryRow(ctx, "SELECT s FROM t WHERE a = 1 FORMAT CSV").Scan(&s))
	require.Equal(t, "a\n\n;b", s)

	with := chgo.Context(ctx, chgo.WithParameters(chgo.Parameters{"x": "it's\\n", "n": "7"}), chgo.WithQueryID("q-1"))
	var n uint8
	require.NoError(t, conn.QueryRow(with, "SELECT {x:String}, {n:UInt8}").Scan(&s, &n))
	require.Equal(t, "it's\n", s, "values are in the escaped form, as on a server")
	require.EqualValues(t, 7, n)

	rows, err := conn.Query(ctx, "SELECT a, s FROM t WHERE 0")
	require.NoError(t, err)
	require.Equal(t, []string{"a", "s"}, rows.Columns())
	require.False(t, rows.Next())
	require.NoError(t, rows.Close())
	rows, err = conn.Query(ctx, "SHOW TABLES LIKE 'nosuch'")
	require.NoError(t, err)
	require.Equal(t, []string{"name"}, rows.Columns())
	require.NoError(t, rows.Close())
}

func TestSettings(t *testing.T) {
	addr, database := clickhousetest.StartDB(t)
	db := chgo.OpenDB(&chgo.Options{Addr: []string{addr}, Auth: chgo.Auth{Database: database}})
	defer func() { require.NoError(t, db.Close()) }()
	ctx := t.Context()
	session, err := db.Conn(ctx) // one connection, which a pool of one does not promise
	require.NoError(t, err)
	defer func() { require.NoError(t, session.Close()) }()
	threads := func(ctx context.Context) (n string) {
		require.NoError(t, session.QueryRowContext(ctx, "SELECT toString(getSetting('max_threads'))").Scan(&n))
		return n
	}
	own := threads(ctx)
	three := chgo.Context(ctx, chgo.WithSettings(chgo.Settings{"max_threads": 3}))
	require.Equal(t, "3", threads(three))
	require.Equal(t, own, threads(ctx), "a query's settings are its own")
	_, err = session.ExecContext(ctx, "SET max_threads = 5")
	require.NoError(t, err)
	require.Equal(t, "3", threads(three))
	require.Equal(t, "5", threads(ctx), "SET lasts")
}

func TestBigResultAndConcurrency(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	var wg sync.WaitGroup
	for range 6 {
		conn := dial(t, addr, db)
		wg.Go(func() {
			rows, err := conn.Query(t.Context(), "SELECT number, toString(number) FROM numbers(300000)")
			if err != nil {
				t.Error(err)
				return
			}
			var sum, a uint64
			var s string
			for rows.Next() {
				if err := rows.Scan(&a, &s); err != nil || s != fmt.Sprint(a) {
					t.Errorf("row %d %q: %v", a, s, err)
					return
				}
				sum += a
			}
			if rows.Err() != nil || sum != 299999*300000/2 {
				t.Errorf("sum %d: %v", sum, rows.Err())
			}
		})
	}
	wg.Wait()
}

// proxy passes the first bytes of a connection on and then breaks it.
func proxy(t *testing.T, to string, limit int) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", to)
		if err != nil {
			_ = client.Close()
			return
		}
		wg.Go(func() {
			buf := make([]byte, 4096)
			for {
				n, err := server.Read(buf)
				if err != nil {
					return
				}
				_, _ = client.Write(buf[:n])
			}
		})
		buf := make([]byte, 1024)
		for limit > 0 {
			n, err := client.Read(buf[:min(len(buf), limit)])
			if err != nil {
				break
			}
			_, _ = server.Write(buf[:n])
			limit -= n
		}
		_ = server.Close()
		_ = client.Close()
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func TestTornConnectionInsertsNothing(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	conn := dial(t, addr, db)
	require.NoError(t, conn.Exec(t.Context(), events))
	values := make([]uint64, 100_000)
	for i := range values {
		values[i] = uint64(i)
	}
	c, err := ch.Dial(t.Context(), ch.Options{Address: proxy(t, addr, 500_000), Database: db})
	require.NoError(t, err)
	require.Error(t, insert(t.Context(), c, "torn", values...))
	_ = c.Close()
	c, err = ch.Dial(t.Context(), ch.Options{Address: addr, Database: db})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.EqualValues(t, 0, count(t, conn, "t"))
	require.NoError(t, insert(t.Context(), c, "torn", values...), "the token is not used up")
	require.EqualValues(t, len(values), count(t, conn, "t"))
}

func TestKillQuery(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	conn := dial(t, addr, db)
	require.NoError(t, conn.Exec(t.Context(), events))
	kill := func(id string) int {
		rows, err := conn.Query(t.Context(), "KILL QUERY WHERE query_id = '"+id+"' SYNC")
		require.NoError(t, err)
		n := 0
		for rows.Next() {
			n++
		}
		require.NoError(t, rows.Close())
		return n
	}
	require.Zero(t, kill("nosuch"))
	for name, query := range map[string]string{
		"select": "SELECT count() FROM numbers(1000000000000) SETTINGS max_threads = 1",
		"insert": "INSERT INTO t SELECT number, '' FROM numbers(1000000000000)",
	} {
		t.Run(name, func(t *testing.T) {
			victim := dial(t, addr, db)
			failed := make(chan error, 1)
			go func() { failed <- victim.Exec(chgo.Context(t.Context(), chgo.WithQueryID(name)), query) }()
			require.Eventually(t, func() bool { return kill(name) == 1 }, time.Minute, 10*time.Millisecond)
			var e *chgo.Exception
			require.ErrorAs(t, <-failed, &e)
			require.EqualValues(t, 394, e.Code)
		})
	}
	t.Run("receiving", func(t *testing.T) {
		before := count(t, conn, "t")
		victim := dial(t, addr, db)
		batch, err := victim.PrepareBatch(chgo.Context(t.Context(), chgo.WithQueryID("r")), "INSERT INTO t")
		require.NoError(t, err)
		require.NoError(t, batch.Append(uint64(1), "x"))
		require.Equal(t, 1, kill("r"))
		require.Error(t, batch.Send())
		require.Equal(t, before, count(t, conn, "t"))
	})
}

func TestCancel(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	victim := dial(t, addr, db)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.Error(t, victim.Exec(ctx, "SELECT count() FROM numbers(1000000000000) SETTINGS log_comment = 'cancel me'"))
	conn := dial(t, addr, db)
	require.Eventually(t, func() bool {
		return count(t, conn, "system.processes WHERE Settings['log_comment'] = 'cancel me'") == 0
	}, time.Minute, 10*time.Millisecond)
}

func TestOldClient(t *testing.T) {
	path, err := exec.LookPath("clickhouse-client")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("clickhouse-client is not installed; run make parts")
		}
		t.Skip("skipped: clickhouse-client is not installed; run make parts")
	}
	addr, db := clickhousetest.StartDB(t)
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	client := func(stdin, query string, more ...string) string {
		cmd := exec.Command(path, append([]string{"--host", host, "--port", port, "--database", db, "--query", query}, more...)...)
		cmd.Stdin = strings.NewReader(stdin)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		return string(out)
	}
	client("", "CREATE TABLE t (a UInt64, s String, d DateTime, n Nullable(Int32), l Array(String)) ENGINE = MergeTree ORDER BY a")
	client("1,\"x\",\"2020-01-02 03:04:05\",\\N,\"['p','q']\"\n", "INSERT INTO t FORMAT CSV", "--max_block_size", "1000")
	client("", "INSERT INTO t VALUES (2, 'y', 0, 5, [])")
	require.Equal(t, "1\tx\t\\N\t['p','q']\n2\ty\t5\t[]\n", client("", "SELECT a, s, n, l FROM t ORDER BY a FORMAT TabSeparated"))
	require.Equal(t, "2\n", client("", "SELECT count() FROM t", "--max_threads", "1"))
	var exit *exec.ExitError
	out, err := exec.Command(path, "--host", host, "--port", port, "--query", "SELECT * FROM nosuch").CombinedOutput()
	require.ErrorAs(t, err, &exit)
	require.Contains(t, string(out), "Code: 60")
}
