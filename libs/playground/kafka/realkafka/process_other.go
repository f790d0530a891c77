//go:build unix && !linux

package realkafka

import "syscall"

// processAttributes keeps the terminal's Ctrl-C from the broker: whoever started it stops it, in order.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
