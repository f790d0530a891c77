//go:build linux

// Package standin makes images of real programs under the names that compose.yaml gives to images of a
// registry, for machines that reach none.
//
// Each image holds what compose.yaml relies on: the program itself (NATS, Apache Kafka, the ClickHouse
// engine, Jaeger, Go), the variables and paths that configure it, its user, and the small programs that
// health checks and scripts call. It does not hold the rest of what the published image holds.
package standin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"sluice/e2e/compose/internal/engine"
)

// image is a recipe.
type image struct {
	// config are the lines of a Dockerfile that `docker import --change` takes.
	config []string
	// inputs are files of this machine; the image is made anew when one of them changes.
	inputs []string
	// names are files whose name tells their content.
	names []string
	// write writes the files.
	write func(*rootfs)
}

// revision is part of every image's identity; raise it with a change of a recipe.
const revision = "2"

// label carries the identity of what an image was made from.
const label = "sluice.standin"

// Ensure makes the image of that tag, unless the engine has it already, made from the same.
func Ensure(ctx context.Context, e *engine.Engine, tag string, parts Parts) error {
	recipe, err := parts.recipe(tag)
	if err != nil {
		return err
	}
	id, err := recipe.identity()
	if err != nil {
		return fmt.Errorf("image %s: %w", tag, err)
	}
	if has, err := e.Docker(ctx, "image", "inspect", "--format", `{{index .Config.Labels "`+label+`"}}`, tag); err == nil &&
		strings.TrimSpace(has) == id {
		return nil
	}
	args := []string{"import", "--change", "LABEL " + label + "=" + id}
	for _, c := range recipe.config {
		args = append(args, "--change", c)
	}
	cmd := e.Command(ctx, append(args, "-", tag)...)
	return pipe(cmd, tag, recipe.write)
}

// pipe feeds the files to docker import.
func pipe(cmd *exec.Cmd, tag string, write func(*rootfs)) error {
	r, w := io.Pipe()
	cmd.Stdin = r
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	var wg sync.WaitGroup
	var wrote error
	wg.Go(func() {
		root := newRootfs(w)
		write(root)
		wrote = root.close()
		_ = w.CloseWithError(wrote)
	})
	err := cmd.Run()
	_ = r.CloseWithError(io.ErrClosedPipe)
	wg.Wait()
	if wrote != nil {
		return fmt.Errorf("write image %s: %w", tag, wrote)
	}
	if err != nil {
		return fmt.Errorf("import image %s: %w\n%s", tag, err, out.String())
	}
	return nil
}

// identity changes when the recipe or the content of one of its inputs does.
func (i image) identity() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, revision, i.config)
	for _, name := range i.names {
		fmt.Fprintln(h, filepath.Base(name))
	}
	for _, name := range i.inputs {
		err := filepath.WalkDir(name, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			fmt.Fprintln(h, filepath.Base(p), info.Size())
			if p != name {
				return nil // of a directory the names and sizes: its files carry their versions
			}
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(h, f)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}
