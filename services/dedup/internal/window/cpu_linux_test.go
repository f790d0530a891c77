package window

import (
	"syscall"
	"time"
	"unsafe"
)

// cpuTime is the CPU time of the calling thread, which must be locked: what a benchmark on a busy
// machine can compare.
func cpuTime() time.Duration {
	const clockThreadCPUTimeID = 3
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPUTimeID, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic(errno)
	}
	return time.Duration(ts.Nano())
}
