package service

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// envPrefix begins the name of every environment variable of Sluice.
const envPrefix = "SLUICE_"

// Load fills in the flags of fs that were not given: from the environment (SLUICE_ and the flag's
// name in capitals, - as _), else from the YAML file (the flag's name, - as _), else they keep their
// defaults. The file is named by the flag --config or SLUICE_CONFIG; without either there is none.
// Unknown keys in the file are errors. All problems are reported together.
func Load(fs *pflag.FlagSet, lookupEnv func(string) (string, bool)) error {
	given := map[string]bool{}
	fs.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	var errs []error
	path := ""
	if f := fs.Lookup("config"); f != nil {
		path = f.Value.String()
		if v, ok := lookupEnv(envPrefix + "CONFIG"); ok && !given["config"] {
			path = v
		}
	}
	file := map[string]setting{}
	if path != "" {
		var err error
		if file, err = readFile(path, fs); err != nil {
			errs = append(errs, err)
		}
	}
	fs.VisitAll(func(f *pflag.Flag) {
		if given[f.Name] || !configurable(f) {
			return
		}
		if v, ok := lookupEnv(envName(f.Name)); ok {
			if err := fs.Set(f.Name, v); err != nil {
				errs = append(errs, fmt.Errorf("%s=%q: %w", envName(f.Name), v, errors.Unwrap(err)))
			}
			return
		}
		if s, ok := file[fileKey(f.Name)]; ok {
			if err := fs.Set(f.Name, s.value); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: %s: %q: %w", path, s.line, fileKey(f.Name), s.value, errors.Unwrap(err)))
			}
		}
	})
	return errors.Join(errs...)
}

// configurable: flags that only steer this one call have no place in a file.
func configurable(f *pflag.Flag) bool {
	return f.Name != "config" && f.Name != "help" && f.Name != "version"
}

func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func fileKey(flag string) string { return strings.ReplaceAll(flag, "-", "_") }

type setting struct {
	value string
	line  int
}

func readFile(path string, fs *pflag.FlagSet) (map[string]setting, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := map[string]setting{}
	if len(doc.Content) == 0 {
		return out, nil // an empty file says nothing
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: the file must be a mapping of settings", path, root.Line)
	}
	var known []string
	fs.VisitAll(func(f *pflag.Flag) {
		if configurable(f) {
			known = append(known, fileKey(f.Name))
		}
	})
	var errs []error
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		text, err := scalar(v)
		switch {
		case !slices.Contains(known, k.Value):
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q; known are %s", path, k.Line, k.Value, strings.Join(known, ", ")))
		case out[k.Value].line != 0:
			errs = append(errs, fmt.Errorf("%s:%d: key %q was given in line %d already", path, k.Line, k.Value, out[k.Value].line))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s:%d: %s: %w", path, v.Line, k.Value, err))
		default:
			out[k.Value] = setting{text, v.Line}
		}
	}
	return out, errors.Join(errs...)
}

// scalar is the text of a value; a list is joined with commas, as in a flag.
func scalar(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		return n.Value, nil
	case yaml.SequenceNode:
		parts := make([]string, len(n.Content))
		for i, c := range n.Content {
			if c.Kind != yaml.ScalarNode {
				return "", errors.New("a list may hold plain values only")
			}
			parts[i] = c.Value
		}
		return strings.Join(parts, ","), nil
	case yaml.AliasNode:
		return scalar(n.Alias)
	default:
		return "", errors.New("must be a plain value or a list of them")
	}
}
