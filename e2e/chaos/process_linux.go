package main

import "syscall"

// attributes let a process die with us, also when we are killed, and keep the terminal's Ctrl-C to ourselves.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
