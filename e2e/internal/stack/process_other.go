//go:build unix && !linux

package stack

import "syscall"

// attributes keep the terminal's Ctrl-C from a process: the test that started it stops it.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
