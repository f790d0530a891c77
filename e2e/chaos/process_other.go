//go:build unix && !linux

package main

import "syscall"

// attributes keep the terminal's Ctrl-C to ourselves.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
