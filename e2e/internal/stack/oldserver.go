//go:build unix

package stack

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const oldConfig = `<yandex>
<logger><level>warning</level><console>1</console></logger>
<tcp_port>%s</tcp_port><http_port>%s</http_port><interserver_http_port>%s</interserver_http_port>
<listen_host>127.0.0.1</listen_host><path>%[4]s/data/</path><tmp_path>%[4]s/tmp/</tmp_path>
<users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>5242880</mark_cache_size></yandex>`

const oldUsers = `<yandex><profiles><default/></profiles><quotas><default/></quotas><users>
<default><password/><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default>
</users></yandex>`

// StartOldClickHouse runs Debian's clickhouse-server and returns its address. Where it is not installed the test is
// skipped with one line; with CI=true it fails.
func StartOldClickHouse(t testing.TB) string {
	t.Helper()
	const missing = "clickhouse-server is not installed (apt-get install clickhouse-server)"
	path, err := exec.LookPath("clickhouse-server")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip("skipped: " + missing)
	}
	addrs := FreeAddrs(t, 3)
	var ports []any
	for _, a := range addrs {
		_, port, err := net.SplitHostPort(a)
		require.NoError(t, err)
		ports = append(ports, port)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.xml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, oldConfig, append(ports, dir)...), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "users.xml"), []byte(oldUsers), 0o600))
	NewProcess(t, "clickhouse-server", path, []string{"--config-file=" + config}, nil).Start()
	WaitListen(t, addrs[0])
	return addrs[0]
}
