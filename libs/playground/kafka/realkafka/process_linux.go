package realkafka

import "syscall"

// processAttributes lets the broker die with us, also when we are killed, and keeps the terminal's Ctrl-C from it:
// whoever started it stops it, in order.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
