//go:build linux

package standin

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// rootfs writes an image's files as a tar stream. The first error stays and is returned by close; what
// comes after it does nothing.
type rootfs struct {
	w    *tar.Writer
	seen map[string]bool
	err  error
}

func newRootfs(w io.Writer) *rootfs {
	return &rootfs{w: tar.NewWriter(w), seen: map[string]bool{}}
}

func (r *rootfs) close() error { return errors.Join(r.err, r.w.Close()) }

// add writes one entry, after the directories above it. An entry that is there already stays.
func (r *rootfs) add(h *tar.Header, content io.Reader) {
	h.Name = strings.TrimPrefix(path.Clean(h.Name), "/")
	if r.err != nil || r.seen[h.Name] || h.Name == "." || h.Name == "" {
		return
	}
	if parent := path.Dir(h.Name); !r.seen[parent] && parent != "." {
		r.dir(parent, 0o755, 0)
	}
	r.seen[h.Name] = true
	h.Format, h.ModTime = tar.FormatPAX, time.Unix(0, 0)
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if r.err = r.w.WriteHeader(h); r.err == nil && content != nil {
		_, r.err = io.Copy(r.w, content)
	}
}

// dir makes a directory that belongs to uid.
func (r *rootfs) dir(name string, mode int64, uid int) {
	r.add(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: uid, Gid: uid}, nil)
}

// text makes a file of a few words.
func (r *rootfs) text(name, content string, mode int64) {
	r.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, strings.NewReader(content))
}

func (r *rootfs) link(name, target string) {
	r.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// file copies a file of this machine; a link is followed.
func (r *rootfs) file(name, from string) {
	if r.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		r.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		r.err = err
		return
	}
	r.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm() | 0o444), Size: info.Size()}, f)
}

// tree copies a directory of this machine, its links followed. Links into nowhere, and what skip names
// (by its path below from), are left out.
func (r *rootfs) tree(name, from string, skip func(rel string) bool) {
	if r.err != nil {
		return
	}
	r.err = errors.Join(r.err, filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		if skip != nil && skip(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			r.dir(path.Join(name, rel), 0o755, 0)
		case info.IsDir(): // a link to a directory
			to, err := filepath.EvalSymlinks(p)
			if err != nil {
				return err
			}
			r.tree(path.Join(name, rel), to, nil)
		case info.Mode().IsRegular():
			r.file(path.Join(name, rel), p)
		}
		return r.err
	}))
}

// program copies a program or a shared library with every library that it is linked to, and the loader.
func (r *rootfs) program(name, from string) {
	r.file(name, from)
	r.libraries(from)
}

func (r *rootfs) libraries(of string) {
	if r.err != nil {
		return
	}
	out, err := exec.Command("ldd", of).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "not a dynamic executable") || strings.Contains(string(out), "statically linked") {
			return
		}
		r.err = fmt.Errorf("ldd %s: %w: %s", of, err, out)
		return
	}
	for line := range strings.Lines(string(out)) {
		// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" or "/lib64/ld-linux-x86-64.so.2 (0x…)".
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "/") {
				r.file(word, word)
				if base := path.Join("/usr/lib", path.Base(word)); !strings.Contains(word, "ld-linux") {
					r.link(base, word) // found without a cache of the loader's
				}
			}
		}
	}
}

// shell gives the image busybox under the names of its programs, as Alpine has it, names, and the files
// that every image has.
func (r *rootfs) shell(busybox string) {
	r.file("/bin/busybox", busybox)
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		r.err = errors.Join(r.err, fmt.Errorf("list busybox's programs: %w", err))
		return
	}
	for applet := range strings.Lines(string(out)) {
		if applet = strings.TrimSpace(applet); applet != "" && applet != "busybox" {
			r.link(path.Join("/bin", applet), "/bin/busybox")
		}
	}
	r.text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nappuser:x:1000:1000::/home/appuser:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n", 0o644)
	r.text("/etc/group", "root:x:0:\nappuser:x:1000:\nnogroup:x:65534:\n", 0o644)
	r.text("/etc/nsswitch.conf", "hosts: files dns\n", 0o644)
	r.dir("/tmp", 0o1777, 0)
}
