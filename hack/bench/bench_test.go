package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestPairs(t *testing.T) {
	var p pairs
	for _, v := range [][2]float64{{90, 100}, {120, 100}, {50, 200}} {
		p.add(v[0], v[1])
	}
	r := p.ratio("held", "MB/s", "nginx", atLeast(0.95))
	if r.Kioo != 90 || r.Other != 100 || r.Result != 0.9 || r.Least != 0.25 || r.Most != 1.2 || *r.Met {
		t.Errorf("ratio %+v", r)
	}
	if r := p.ratio("held", "MB/s", "nginx", atMost(1)); !*r.Met {
		t.Errorf("0.9 is not at most 1: %+v", r)
	}
	if r := p.difference("first byte", "ms", "direct", atMost(5)); r.Result != -10 || r.Least != -150 || r.Most != 20 || !*r.Met {
		t.Errorf("difference %+v", r)
	}
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 5}, 5}} {
		if got := median(tt.values); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.values, got, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	var p pairs
	p.add(1900, 2000)
	rows := []row{
		p.ratio("held blob", "MB/s", "nginx", atLeast(0.95)),
		{Name: "held blob: peak RSS", Unit: "MiB", Kioo: 20, Foot: "of one round"},
		{Name: "manifests", Unit: "requests/s", Note: errNoNginx.Error()},
	}
	var out strings.Builder
	if err := printTable(&out, rows, "here", time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.950", ">= 0.95", "yes", "apt-get install", "here; took 1m0s", "held blob: peak RSS: of one round\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-rounds=0"}, {"-size=1"}, {"-clients=0"}, {"-slice=0s"}, {"more"}, {"-what"}} {
		if o, err := parse(args, &bytes.Buffer{}); err == nil {
			t.Errorf("%v was taken for %+v", args, o)
		}
	}
	o, err := parse([]string{"-rounds=2", "-size=8", "-kioo=/bin/kioo", "-before=/bin/old"}, &bytes.Buffer{})
	if err != nil || o.rounds != 2 || o.size != 8<<20 {
		t.Fatalf("%+v, %v", o, err)
	}
	again, err := parse(o.arguments(), &bytes.Buffer{})
	if err != nil || again.rounds != o.rounds || again.size != o.size || again.program != o.program || again.before != o.before || !again.json {
		t.Errorf("its own arguments make %+v of %+v, %v", again, o, err)
	}
}

// TestRun measures all, shortly: the numbers are worth nothing, but every part runs against real servers.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("starts registries and servers")
	}
	// As a program of its own: it starts itself again in the namespace.
	program := t.TempDir() + "/bench"
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "-rounds=1", "-size=16", "-slice=50ms", "-json")
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		t.Fatalf("run: %v\n%s", err, progress.String())
	}
	var rows []row
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"held blob", "manifests", "uncached pull of", shapedName, peerName, peerName + ": equal work"} {
		if !measured(rows, want) {
			t.Errorf("nothing of %q in %s", want, out.String())
		}
	}
}

// measured says whether a quantity was measured, or why it could not be.
func measured(rows []row, name string) bool {
	for _, r := range rows {
		if strings.HasPrefix(r.Name, name) && (r.Kioo > 0 && r.Other > 0 || r.Note != "") {
			return true
		}
	}
	return false
}

// TestTooLittle has a quantity that is zero on one side, as the time of a processor is when little was done.
func TestTooLittle(t *testing.T) {
	for _, kioo := range []float64{0, 1} {
		var p pairs
		p.add(kioo, 0)
		r := p.ratio("CPU", "s/GiB", "nginx", atMost(1))
		if _, err := json.Marshal(r); err != nil || r.Note == "" {
			t.Errorf("%v: %v", r, err)
		}
	}
}
