package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of processor time in /proc/<pid>/stat: USER_HZ, which is 100 on every Linux that runs Go.
const clockTick = 10 * time.Millisecond

// Memory is what a process holds, in bytes. Pages of files, which the kernel can drop, are only in Peak.
type Memory struct {
	// Peak is the largest resident set so far (VmHWM).
	Peak int64
	// Anonymous is what is resident of heap and stacks now (RssAnon).
	Anonymous int64
}

// ReadMemory reads what a process holds from /proc/<pid>/status.
func ReadMemory(pid int) (Memory, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	var m Memory
	for field, value := range map[string]*int64{"VmHWM:": &m.Peak, "RssAnon:": &m.Anonymous} {
		if *value, err = statusKiB(status, field); err != nil {
			return Memory{}, fmt.Errorf("read memory of process %d: %w", pid, err)
		}
	}
	return m, nil
}

func statusKiB(status []byte, field string) (int64, error) {
	for line := range bytes.Lines(status) {
		words := strings.Fields(string(line))
		if len(words) == 3 && words[0] == field && words[2] == "kB" {
			n, err := strconv.ParseInt(words[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no field %s in its status", field)
}

// ResetPeak makes Memory.Peak of a process start again from what it holds now.
func ResetPeak(pid int) error {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200); err != nil {
		return fmt.Errorf("reset peak memory of process %d: %w", pid, err)
	}
	return nil
}

// ProcessorTime adds up the user and system time of a process and of its children, running ones included: nginx
// works in children.
func ProcessorTime(pid int) (time.Duration, error) {
	total, err := processorTime(pid)
	if err != nil {
		return 0, err
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, fmt.Errorf("list children of process %d: %w", pid, err)
	}
	for _, list := range lists {
		pids, err := os.ReadFile(list)
		if err != nil {
			continue // The thread has just ended; its children moved to another one.
		}
		for _, word := range strings.Fields(string(pids)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return 0, fmt.Errorf("children of process %d: %w", pid, err)
			}
			t, err := ProcessorTime(child)
			if err != nil {
				return 0, err
			}
			total += t
		}
	}
	return total, nil
}

func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
	}
	// The second field is the program's name in parentheses, which may itself hold any of these characters.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 14 - 3, 15 - 3 // proc(5) counts from 1 and we lack the first two.
	if len(fields) <= stime {
		return 0, fmt.Errorf("read processor time of process %d: stat has %d fields", pid, len(fields))
	}
	var total time.Duration
	for _, i := range []int{utime, stime} {
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
		}
		total += time.Duration(ticks) * clockTick
	}
	return total, nil
}
