package structure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDependencies(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, "go.work"))
	files, err := tree(root)
	require.NoError(t, err)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			applies := false
			for _, f := range files {
				applies = applies || matches(f.pkg, r.from) && !matches(f.pkg, r.except)
			}
			require.True(t, applies, "the rule is about no package that there is: mend its paths")
			if found := check(files, r); len(found) > 0 {
				t.Errorf("forbidden, because %s:\n  %s", r.why, strings.Join(found, "\n  "))
			}
		})
	}
}

// Every module of the workspace is in the table's reach, so that none grows up unseen.
func TestModulesAreNamedByTheirDirectory(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	var modules []string
	for _, pattern := range []string{"*/go.mod", "*/*/go.mod"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		modules = append(modules, found...)
	}
	require.NotEmpty(t, modules)
	for _, name := range modules {
		dir, err := filepath.Rel(root, filepath.Dir(name))
		require.NoError(t, err)
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		first, _, _ := strings.Cut(string(data), "\n")
		require.Equal(t, "module sluice/"+filepath.ToSlash(dir), first)
	}
}

// The checker finds what it is there for.
func TestCheckerFindsViolations(t *testing.T) {
	ruleNamed := func(name string) rule {
		for _, r := range rules {
			if r.name == name {
				return r
			}
		}
		t.Fatalf("no rule %q", name)
		return rule{}
	}
	for _, c := range []struct {
		name, rule string
		files      map[string]string
		want       []string
	}{
		{
			"a service imports another", "sink is alone",
			map[string]string{"services/sink/x.go": `package sink; import _ "sluice/services/dedup"`},
			[]string{"services/sink/x.go imports sluice/services/dedup"},
		},
		{
			"a service's test imports another", "dedup is alone",
			map[string]string{"services/dedup/x_test.go": `package dedup_test; import _ "sluice/services/ingestor/internal/rows"`},
			[]string{"services/dedup/x_test.go imports sluice/services/ingestor/internal/rows"},
		},
		{
			"its own packages are welcome", "sink is alone",
			map[string]string{"services/sink/x.go": `package sink; import _ "sluice/services/sink/internal/block"`},
			nil,
		},
		{
			"a core reads the clock", "pure cores",
			map[string]string{"services/dedup/internal/window/x.go": "package window\nimport \"time\"\nvar _ = time.Hour\nfunc f() { _ = time.Now() }"},
			[]string{"services/dedup/internal/window/x.go:4 uses time.Now"},
		},
		{
			"a core reads the clock under another name", "pure cores",
			map[string]string{"libs/batch/x.go": "package batch\nimport t \"time\"\nvar _ = t.Since"},
			[]string{"libs/batch/x.go:3 uses time.Since"},
		},
		{
			"a core starts a goroutine", "pure cores",
			map[string]string{"libs/native/x.go": "package native\nfunc f() { go f() }"},
			[]string{"libs/native/x.go:2 starts a goroutine"},
		},
		{
			"a core reaches NATS through another package", "pure cores",
			map[string]string{
				"libs/batch/x.go": `package batch; import _ "sluice/libs/other"`,
				"libs/other/y.go": `package other; import _ "github.com/nats-io/nats.go"`,
			},
			[]string{"libs/other/y.go imports github.com/nats-io/nats.go, imported by sluice/libs/batch"},
		},
		{
			"a core's test may do all that", "pure cores",
			map[string]string{"libs/batch/x_test.go": "package batch\nimport (\n\"net\"\n\"time\"\n)\nvar _, _ = net.Dial, time.Now"},
			nil,
		},
		{
			"the network, but not addresses", "pure cores",
			map[string]string{"libs/native/x.go": `package native; import (_ "net/netip"; _ "net")`},
			[]string{"libs/native/x.go imports net"},
		},
		{
			"a service carries the playground", "the playground is for tests, dev, e2e and bench",
			map[string]string{
				"services/control/x.go":      `package control; import _ "sluice/libs/playground/nats"`,
				"services/control/x_test.go": `package control; import _ "sluice/libs/playground/nats/natstest"`,
				"cmd/sluice/x.go":            `package main; import _ "sluice/libs/playground/nats"`,
			},
			[]string{"services/control/x.go imports sluice/libs/playground/nats"},
		},
		{
			"a library imports a service", "libs know no service",
			map[string]string{"libs/spec/x.go": `package spec; import _ "sluice/services/control"`},
			[]string{"libs/spec/x.go imports sluice/services/control"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var files []file
			for name, src := range c.files {
				f, err := parse(name, []byte(src))
				require.NoError(t, err)
				files = append(files, f)
			}
			require.Equal(t, c.want, check(files, ruleNamed(c.rule)))
		})
	}
}
