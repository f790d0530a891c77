package clickhouse

import (
	"syscall"
	"unsafe"
)

// keepSignals runs fn, which resets or takes over signal handlers of the process, and then puts them back as they were.
// It speaks to the kernel directly, so that the handlers are the very ones the Go runtime installed.
func keepSignals(fn func()) {
	const maskBytes = 8
	type action [64]byte // struct sigaction as the kernel knows it: 32 bytes or less
	kept := map[uintptr]*action{}
	for sig := uintptr(1); sig <= 64; sig++ {
		a := new(action)
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(a)), maskBytes, 0, 0); errno == 0 {
			kept[sig] = a
		}
	}
	fn()
	for sig, a := range kept {
		if sig == uintptr(syscall.SIGKILL) || sig == uintptr(syscall.SIGSTOP) {
			continue
		}
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(a)), 0, maskBytes, 0, 0)
	}
}
