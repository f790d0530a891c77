package clickhouse

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	controlv1 "sluice/gen/sluice/control/v1"
)

// startOldServer runs Debian's clickhouse-server (18.16): the real protocol of a real server, before tokens.
func startOldServer(t *testing.T) (addr string) {
	t.Helper()
	binary, err := exec.LookPath("clickhouse-server")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("clickhouse-server is not installed (apt-get install clickhouse-server)")
		}
		t.Skip("skipped: clickhouse-server is not installed (apt-get install clickhouse-server)")
	}
	dir := t.TempDir()
	ports := freePorts(t, 3)
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	write("config.xml", fmt.Sprintf(`<yandex>
<logger><level>warning</level><console>1</console></logger>
<tcp_port>%d</tcp_port><http_port>%d</http_port><interserver_http_port>%d</interserver_http_port>
<listen_host>127.0.0.1</listen_host><path>%[4]s/data/</path><tmp_path>%[4]s/tmp/</tmp_path>
<users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>5242880</mark_cache_size></yandex>`, ports[0], ports[1], ports[2], dir))
	write("users.xml", `<yandex><profiles><default/></profiles><quotas><default/></quotas><users>
<default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
<guarded><password>let me in</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></guarded>
</users></yandex>`)
	var log bytes.Buffer
	cmd := exec.Command(binary, "--config-file="+filepath.Join(dir, "config.xml"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &log, &log
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("clickhouse-server said:\n%s", log.String())
		}
	})
	addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	require.Eventually(t, func() bool {
		select {
		case <-exited:
			return false
		default:
		}
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}, time.Minute, 50*time.Millisecond, "clickhouse-server does not listen")
	return addr
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func TestOldServer(t *testing.T) {
	addr := startOldServer(t)
	sink := &controlv1.ClickHouseSink{Addr: []string{addr}, Table: "old.events"}
	ctx := context.Background()

	missing, err := Describe(ctx, sink)
	require.NoError(t, err)
	require.False(t, missing.Exists)
	require.Equal(t, "18.16", missing.Server.String())

	require.NoError(t, run(ctx, sink, "CREATE DATABASE old"))
	require.NoError(t, run(ctx, sink, "CREATE TABLE old.events (id UInt64, text String, n Int32 DEFAULT 7, twice UInt64 MATERIALIZED id * 2) ENGINE = MergeTree ORDER BY id"))
	table, err := Describe(ctx, sink)
	require.NoError(t, err)
	require.Equal(t, "MergeTree", table.Engine)
	require.Equal(t, []string{"id UInt64 ", "text String ", "n Int32 CAST(7, 'Int32')"}, flat(table.Columns))
	g := GuaranteeOf(table)
	require.Equal(t, controlv1.Guarantee_AT_LEAST_ONCE, g.GetLevel())
	require.Contains(t, g.GetReason(), "18.16 is too old")

	in, err := NewInserter(sink)
	require.NoError(t, err)
	defer in.Close()
	require.NoError(t, in.Insert(ctx, Insert{Table: table.Name, Token: "t", QueryID: "q1", Columns: block(0, 3)}))
	require.NoError(t, in.Insert(ctx, Insert{Table: table.Name, Token: "t", QueryID: "q2", Columns: block(3, 3)}), "the connection is used again")
	require.Equal(t, "6,42,30,0:1:2:3:4:5", ask(t, sink,
		"SELECT concat(toString(count()), ',', toString(sum(n)), ',', toString(sum(twice)), ',', arrayStringConcat(arrayMap(x -> toString(x), arraySort(groupArray(id))), ':')) FROM old.events"))

	err = in.Insert(ctx, Insert{Table: Name{"old", "absent"}, QueryID: "q3", Columns: block(0, 1)})
	require.Equal(t, Retry, Classify(err), "%v", err)
	require.ErrorContains(t, err, "absent")
	require.NoError(t, in.Insert(ctx, Insert{Table: table.Name, QueryID: "q4", Columns: block(6, 1)}), "a refusal does not spoil the next insert")

	err = in.Insert(ctx, Insert{Table: table.Name, QueryID: "q5", Columns: block(6, 1), Settings: map[string]string{"max_memory_usage": "1"}})
	require.ErrorContains(t, err, "takes no settings")
	require.Equal(t, Retry, Classify(err))
	require.NoError(t, KillQuery(ctx, sink, "q5"))
}

func TestOldServerPassword(t *testing.T) {
	addr := startOldServer(t)
	ctx := context.Background()
	file := filepath.Join(t.TempDir(), "password")
	sink := &controlv1.ClickHouseSink{Addr: []string{addr}, Table: "one", Database: "system", Username: "guarded",
		Password: &controlv1.Secret{From: &controlv1.Secret_File{File: file}}}
	in, err := NewInserter(sink)
	require.NoError(t, err)
	defer in.Close()
	insert := Insert{Table: Name{"default", "absent"}, QueryID: "p", Columns: block(0, 1)}

	err = in.Insert(ctx, insert)
	require.ErrorContains(t, err, "sink.clickhouse.password: read the secret")
	require.Equal(t, Retry, Classify(err))

	require.NoError(t, os.WriteFile(file, []byte("wrong\n"), 0o600))
	err = in.Insert(ctx, insert)
	require.Equal(t, Retry, Classify(err), "%v", err)
	require.Contains(t, Explain(err), "password")
	_, err = Describe(ctx, sink)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "wrong\n")

	require.NoError(t, os.WriteFile(file, []byte("let me in\n"), 0o600))
	err = in.Insert(ctx, insert)
	require.ErrorContains(t, err, "absent", "the password is read anew, and now it is right")
	_, err = Describe(ctx, sink)
	require.NoError(t, err)
}

// This server cannot end an INSERT that waits for data. It must say so: who takes a lane over waits then
// until the server gives the silent insert up.
func TestOldServerDoesNotKillSilently(t *testing.T) {
	sink := &controlv1.ClickHouseSink{Addr: []string{startOldServer(t)}, Table: "default.t"}
	ctx := context.Background()
	require.NoError(t, run(ctx, sink, "CREATE TABLE default.t (id UInt64, text String) ENGINE = MergeTree ORDER BY id"))
	begun, wake := make(chan struct{}), make(chan struct{})
	answer := make(chan error, 1)
	in := inserter(t, sink)
	go func() {
		answer <- in.Insert(ctx, Insert{Table: TableName(sink), Columns: block(0, 10), QueryID: "zombie", Guard: func(context.Context) error {
			close(begun)
			<-wake
			return nil
		}})
	}()
	<-begun
	err := KillQuery(ctx, sink, "zombie")
	require.ErrorContains(t, err, "unkillable")
	require.True(t, Answered(err))
	close(wake)
	require.NoError(t, <-answer)
	// The server answers a little before it has forgotten the query.
	require.Eventually(t, func() bool { return KillQuery(ctx, sink, "zombie") == nil }, time.Minute, 10*time.Millisecond, "it has ended")
}
