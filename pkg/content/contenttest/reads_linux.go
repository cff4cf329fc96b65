package contenttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrReadRefused is what reading a file fails with that RefuseReads was called for. The number is one that reading
// files gives for no other reason.
const ErrReadRefused = unix.ENOTNAM

// Values of seccomp(2) that golang.org/x/sys has no names for.
const (
	seccompSetModeFilter = 1
	seccompTSync         = 1
	seccompAllow         = 0x7fff0000
	seccompErrno         = 0x00050000

	// Offsets in struct seccomp_data. Arguments are 64 bits wide; these are their lower halves, on the machines of
	// little endian that we build for.
	offsetOfNumber = 0
	offsetOfFile   = 16
	offsetOfCount  = 32

	// sniffed is how much net/http reads of a body by itself, before it hands the rest to the kernel.
	sniffed = 512
)

// RefuseReads makes every system call fail in this process, from now on and for ever, that would read more than 512
// bytes of an open file to its memory. What still comes out of that file went from the page cache to a socket inside
// the kernel: by sendfile(2) or splice(2).
//
// It needs no privileges, but a kernel with seccomp, and fails with errors.ErrUnsupported without. Call it in a child
// process that ends soon after: the descriptor's number stays refused when it is another file's.
func RefuseReads(fd uintptr) error {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(test uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	result := func(value uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
	}
	filter := []unix.SockFilter{
		0:  load(offsetOfNumber),
		1:  jump(unix.BPF_JEQ, unix.SYS_READ, 5, 0),
		2:  jump(unix.BPF_JEQ, unix.SYS_PREAD64, 4, 0),
		3:  jump(unix.BPF_JEQ, unix.SYS_READV, 6, 0),
		4:  jump(unix.BPF_JEQ, unix.SYS_PREADV, 5, 0),
		5:  jump(unix.BPF_JEQ, unix.SYS_PREADV2, 4, 0),
		6:  result(seccompAllow),
		7:  load(offsetOfCount),
		8:  jump(unix.BPF_JGT, sniffed, 1, 0),
		9:  result(seccompAllow),
		10: load(offsetOfFile),
		11: jump(unix.BPF_JEQ, uint32(fd), 0, 1),
		12: result(seccompErrno | uint32(ErrReadRefused)),
		13: result(seccompAllow),
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return refusal("prctl", err)
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	failed, _, errno := unix.Syscall(unix.SYS_SECCOMP, seccompSetModeFilter, seccompTSync,
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return refusal("seccomp", errno)
	}
	if failed != 0 {
		return fmt.Errorf("seccomp: thread %d can't take the filter", failed)
	}
	return nil
}

// refusal is why a system call failed, which may be that this kernel has none for us.
func refusal(call string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: %w: %w", call, errors.ErrUnsupported, err)
	default:
		return fmt.Errorf("%s: %w", call, err)
	}
}

// OpenFiles gives the descriptors that this process has open on a file.
func OpenFiles(path string) ([]uintptr, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	const dir = "/proc/self/fd"
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var fds []uintptr
	for _, n := range names {
		if target, err := os.Readlink(filepath.Join(dir, n.Name())); err != nil || target != path {
			continue
		}
		fd, err := strconv.ParseUint(n.Name(), 10, 31)
		if err != nil {
			return nil, err
		}
		fds = append(fds, uintptr(fd))
	}
	return fds, nil
}
