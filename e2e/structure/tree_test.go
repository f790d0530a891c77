package structure

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// file is a Go file of the project.
type file struct {
	name    string // relative to the root
	pkg     string // import path, without _test
	test    bool
	imports []string
	// impure are the places where the time is read or a goroutine is started.
	impure []string
}

// tree reads all Go files below root. Modules are at sluice/<dir>, so a directory is its import path.
func tree(root string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(base, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(rel), src)
		if err != nil {
			return err
		}
		files = append(files, f)
		return nil
	})
	return files, err
}

func parse(name string, src []byte) (file, error) {
	f := file{name: name, pkg: path.Join("sluice", path.Dir(name)), test: strings.HasSuffix(name, "_test.go")}
	fset := token.NewFileSet()
	tree, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return f, err
	}
	timeName := ""
	for _, spec := range tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return f, err
		}
		f.imports = append(f.imports, imported)
		if imported == "time" {
			timeName = "time"
			if spec.Name != nil {
				timeName = spec.Name.Name
			}
		}
	}
	note := func(n ast.Node, what string) {
		f.impure = append(f.impure, fmt.Sprintf("%s:%d %s", name, fset.Position(n.Pos()).Line, what))
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			note(n, "starts a goroutine")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && timeName != "" && x.Name == timeName && slices.Contains(clockNames, n.Sel.Name) {
				note(n, "uses time."+n.Sel.Name)
			}
		}
		return true
	})
	return f, nil
}

var clockNames = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// check returns every violation of a rule.
func check(files []file, r rule) []string {
	var found []string
	byPackage := map[string][]file{}
	for _, f := range files {
		if !f.test {
			byPackage[f.pkg] = append(byPackage[f.pkg], f)
		}
	}
	seen := map[string]bool{}
	var look func(f file, via string)
	look = func(f file, via string) {
		if r.clock {
			for _, place := range f.impure {
				found = append(found, place+via)
			}
		}
		for _, imported := range f.imports {
			if matches(imported, r.deny) && !matches(imported, r.allow) {
				found = append(found, fmt.Sprintf("%s imports %s%s", f.name, imported, via))
				continue
			}
			if !r.deep || seen[imported] {
				continue
			}
			seen[imported] = true
			for _, next := range byPackage[imported] {
				look(next, via+", imported by "+f.pkg)
			}
		}
	}
	for _, f := range files {
		if (f.test && !r.tests) || !matches(f.pkg, r.from) || matches(f.pkg, r.except) {
			continue
		}
		look(f, "")
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func matches(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "/..."); ok {
			return pkg == prefix || strings.HasPrefix(pkg, prefix+"/")
		}
		return pkg == pattern
	})
}
