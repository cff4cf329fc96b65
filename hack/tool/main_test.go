package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestRun(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	program := filepath.Join(cache, "kioo-tools/tool-v1.2.3/tool")
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"example.com/cmd/tool@v1.2.3"}, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != program+"\n" || stderr.Len() > 0 {
		t.Errorf("of a program that is there it prints %q and %q", stdout.String(), stderr.String())
	}
	for _, args := range [][]string{nil, {"a@v1", "b@v1"}, {"example.com/cmd/tool"}, {"@v1"}, {"tool@"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: run() took it", args)
		}
	}
}
