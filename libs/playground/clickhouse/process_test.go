package clickhouse_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/stretchr/testify/require"

	"sluice/libs/playground/clickhouse"
	"sluice/libs/playground/clickhouse/clickhousetest"
)

// childDir makes the test binary a server on that directory, as `sluice dev clickhouse` is one.
const childDir = "SLUICE_TEST_CLICKHOUSE_DIR"

func child(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	err := clickhouse.Main(ctx, clickhouse.Config{Dir: dir}, io.Discard, func(addr string) {
		var p *int
		func() {
			defer func() { // the Go runtime still has its SIGSEGV
				if recover() == nil {
					panic("no panic")
				}
			}()
			*p = 1
		}()
		runtime.GC()
		fmt.Println("ready", addr)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func startChild(t *testing.T, dir string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return cmd, strings.TrimSpace(strings.TrimPrefix(line, "ready "))
}

func TestTokenSurvivesKill(t *testing.T) {
	clickhousetest.Library(t)
	dir := t.TempDir()
	for round := range 3 {
		cmd, addr := startChild(t, dir)
		c, err := ch.Dial(t.Context(), ch.Options{Address: addr, Compression: ch.CompressionLZ4})
		require.NoError(t, err)
		if round == 0 {
			require.NoError(t, c.Do(t.Context(), ch.Query{Body: events}))
		}
		require.NoError(t, insert(t.Context(), c, "one", 1, 2, 3))
		var n proto.ColUInt64
		require.NoError(t, c.Do(t.Context(), ch.Query{Body: "SELECT count() AS n FROM t", Result: proto.Results{{Name: "n", Data: &n}}}))
		require.Equal(t, proto.ColUInt64{3}, n)
		require.NoError(t, cmd.Process.Kill()) // right after the answer
		require.Error(t, cmd.Wait())
		_ = c.Close()
	}
}

func TestSignalEndsTheProcess(t *testing.T) {
	clickhousetest.Library(t)
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		cmd, addr := startChild(t, t.TempDir())
		c, err := ch.Dial(t.Context(), ch.Options{Address: addr})
		require.NoError(t, err)
		failed := make(chan error, 1)
		go func() {
			failed <- c.Do(context.Background(), ch.Query{Body: "SELECT count() FROM numbers(1000000000000)", Result: proto.Results{{Name: "count()", Data: new(proto.ColUInt64)}}})
		}()
		other, err := ch.Dial(t.Context(), ch.Options{Address: addr})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			n := proto.ColUInt64{}
			err := other.Do(t.Context(), ch.Query{Body: "SELECT count() AS n FROM system.processes WHERE query LIKE '%1000000000000)%' AND query NOT LIKE '%LIKE%'", Result: proto.Results{{Name: "n", Data: &n}}})
			return err == nil && n[0] == 1
		}, time.Minute, 10*time.Millisecond)
		require.NoError(t, cmd.Process.Signal(sig))
		require.NoError(t, cmd.Wait(), "a clean exit, with a query running")
		require.Error(t, <-failed)
		_, _ = c.Close(), other.Close()
	}
}

func TestOneEngine(t *testing.T) {
	library := clickhousetest.Library(t)
	dir := t.TempDir()
	first, err := clickhouse.Open(clickhouse.Config{Dir: dir, Library: library})
	require.NoError(t, err)
	second, err := clickhouse.Open(clickhouse.Config{Dir: dir, Library: library})
	require.NoError(t, err)
	_, err = clickhouse.Open(clickhouse.Config{Dir: t.TempDir(), Library: library})
	require.ErrorContains(t, err, "can run only one")
	conn := dial(t, first.Addr(), "")
	require.NoError(t, conn.Exec(t.Context(), "CREATE TABLE shared (a UInt8) ENGINE = Memory"))
	require.NoError(t, first.Close())
	require.EqualValues(t, 0, count(t, dial(t, second.Addr(), ""), "shared"))
	require.NoError(t, second.Close())
}

// TestInsertSpeed reports what one connection inserts; a slow machine fails it only when something is badly wrong.
func TestInsertSpeed(t *testing.T) {
	addr, db := clickhousetest.StartDB(t)
	c, err := ch.Dial(t.Context(), ch.Options{Address: addr, Database: db, Compression: ch.CompressionLZ4})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.NoError(t, c.Do(t.Context(), ch.Query{Body: events}))
	const rows = 200_000
	var a proto.ColUInt64
	var s proto.ColStr
	for i := range rows {
		a.Append(uint64(i))
		s.Append(fmt.Sprintf("%090d", i))
	}
	start := time.Now()
	for i := range 3 {
		require.NoError(t, c.Do(t.Context(), ch.Query{
			Body:     "INSERT INTO t (a, s) VALUES",
			Input:    proto.Input{{Name: "a", Data: a}, {Name: "s", Data: &s}},
			Settings: []ch.Setting{{Key: "insert_deduplication_token", Value: fmt.Sprint(i), Important: true}},
		}))
	}
	rate := 3 * rows / time.Since(start).Seconds()
	t.Logf("%.0f rows/s of 100 B", rate)
	require.Greater(t, rate, 20_000.0)
	require.EqualValues(t, 3*rows, count(t, dial(t, addr, db), "t"))
}
