package match_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write what comes out into docs/joins.md")

const document = "../../../../docs/joins.md"

// TestScenarios plays every scenario of the documentation.
func TestScenarios(t *testing.T) {
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	parts := strings.Split(string(text), "```")
	played, title := 0, ""
	for i, part := range parts {
		if i%2 == 0 {
			for _, line := range strings.Split(part, "\n") {
				if strings.HasPrefix(line, "#") {
					title = strings.TrimLeft(line, "# ")
				}
			}
			continue
		}
		body, ok := strings.CutPrefix(part, "scenario\n")
		if !ok {
			continue
		}
		played++
		t.Run(title, func(t *testing.T) {
			// With memory for no row, with memory for all, and with a restart after each line, the same comes out.
			for _, how := range []struct {
				name    string
				budget  int
				restart bool
			}{{"in memory", 0, false}, {"on disk", 1, false}, {"restarted", 0, true}, {"restarted on disk", 1, true}} {
				got := playAll(t, body, how.budget, how.restart)
				if *update && how.name == "in memory" {
					parts[i] = "scenario\n" + got
					body = got
				}
				require.Equal(t, body, got, how.name)
			}
		})
	}
	require.Greater(t, played, 15)
	if *update {
		require.NoError(t, os.WriteFile(document, []byte(strings.Join(parts, "```")), 0o644))
	}
}

func playAll(t *testing.T, body string, budget int, restart bool) string {
	lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
	config, times := configOf(t, lines[0])
	p := &player{world: newWorld(t, config, times, budget, t.TempDir()), partitions: [2]int{1, 1}, maxima: map[string]int64{}, offsets: map[string]int64{}}
	defer func() { p.close() }()
	out := []string{lines[0]}
	for _, line := range lines[1:] {
		switch {
		case strings.HasPrefix(line, "  "):
			continue // what came out
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
			out = append(out, line)
			continue
		}
		out = append(out, line)
		for _, got := range p.play(line) {
			out = append(out, "  → "+got)
		}
		if restart {
			p.checkpoint()
			p.crash()
		}
	}
	return strings.Join(out, "\n") + "\n"
}
