//go:build linux

package compose

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// compiled lists the files of this machine's build cache that hold the packages which the programs import from
// elsewhere, compiled as deploy/Dockerfile compiles them. An image build starts with an empty cache; compiling some hundred
// packages of others once more would take longer than all the rest of the test, and test the compiler.
func compiled(t testing.TB) []string {
	t.Helper()
	cacheDir := goEnv(t, "GOCACHE")
	programs, err := filepath.Glob(filepath.Join(root(t), "services", "*", "cmd", "*"))
	require.NoError(t, err)
	outputs := map[string]bool{} // by the id of the compiled package
	for _, dir := range append(programs, filepath.Join(root(t), "cmd", "sluice")) {
		cmd := exec.Command("go", "list", "-deps", "-export", "-trimpath", "-tags", "noengine", "-f", "{{.ImportPath}} {{.Export}}", ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
		out, err := cmd.Output()
		require.NoError(t, err, "%s", stderr(err))
		for line := range strings.Lines(string(out)) {
			pkg, file, _ := strings.Cut(strings.TrimSpace(line), " ")
			if file != "" && !strings.HasPrefix(pkg, "sluice/") {
				outputs[strings.TrimSuffix(filepath.Base(file), "-d")] = true
			}
		}
	}
	require.NotEmpty(t, outputs)
	// An entry "ACTION-a" names the output "OUTPUT-d" that the action made.
	entries, err := filepath.Glob(filepath.Join(cacheDir, "??", "*-a"))
	require.NoError(t, err)
	var files []string
	for _, entry := range entries {
		b, err := os.ReadFile(entry)
		if err != nil {
			continue // trimmed meanwhile
		}
		fields := bytes.Fields(b)
		if len(fields) < 3 || !outputs[string(fields[2])] {
			continue
		}
		id := string(fields[2])
		files = append(files, entry, filepath.Join(cacheDir, id[:2], id+"-d"))
	}
	slices.Sort(files)
	return slices.Compact(files)
}
