package process_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kioo-dev/kioo/hack/process"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, script string) *process.Process {
	t.Helper()
	p, err := process.Start(process.Config{Path: "/bin/sh", Args: []string{"-c", script}, KeepLog: 1000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func TestStopAsksFirst(t *testing.T) {
	p := start(t, `trap 'echo bye; exit 0' TERM; echo ready on 17; while :; do sleep 0.01; done`)
	match, err := p.WaitLog(t.Context(), regexp.MustCompile(`ready on (\d+)`))
	if err != nil || match[1] != "17" {
		t.Fatalf("WaitLog: %q, %v", match, err)
	}
	if err := p.Stop(10 * time.Second); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if log := p.Log(); !strings.HasSuffix(log, "bye\n") {
		t.Errorf("its last word was not bye: %q", log)
	}
}

func TestStopKillsTheDeaf(t *testing.T) {
	p := start(t, `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	if _, err := p.WaitLog(t.Context(), regexp.MustCompile(`ready`)); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(20 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Stop: %v", err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("it still runs")
	}
}

func TestWaitsEnd(t *testing.T) {
	never := regexp.MustCompile(`never`)
	if _, err := start(t, `echo oh; exit 3`).WaitLog(t.Context(), never); err == nil || !strings.Contains(err.Error(), "oh") {
		t.Errorf("wait for a program that ended: %v, want its output", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := start(t, `exec sleep 60`).WaitLog(ctx, never); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("wait with a deadline: %v", err)
	}
}

func TestLogIsBounded(t *testing.T) {
	p := start(t, `for i in $(seq 1 2000); do echo "line $i"; done`)
	<-p.Done()
	if log := p.Log(); len(log) > 1010 || !strings.HasSuffix(log, "line 2000\n") {
		t.Errorf("kept %d bytes: %q", len(log), log)
	}
}

func TestUsage(t *testing.T) {
	// The parent sleeps and its child works, as with nginx.
	p := start(t, `(while :; do :; done) & wait`)
	deadline := time.Now().Add(20 * time.Second)
	for {
		used, err := process.ProcessorTime(p.PID())
		if err != nil {
			t.Fatal(err)
		}
		if used >= 30*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a busy child has used %v", used)
		}
	}
	mem, err := process.ReadMemory(os.Getpid())
	if err != nil || mem.Anonymous <= 1<<20 || mem.Peak < mem.Anonymous {
		t.Errorf("own memory %+v, %v", mem, err)
	}
	if _, err := process.ReadMemory(1 << 30); err == nil {
		t.Error("a process that can't exist has memory")
	}
}
