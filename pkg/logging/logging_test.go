package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLevels(t *testing.T) {
	tests := map[string]string{
		"error": "ERROR:failed",
		"":      "ERROR:failed INFO:said",
		"info":  "ERROR:failed INFO:said",
		"debug": "ERROR:failed INFO:said DEBUG:decided DEBUG:looked",
	}
	for level, want := range tests {
		t.Run(level, func(t *testing.T) {
			var out bytes.Buffer
			log, err := New(Config{Writer: &out, Level: level})
			if err != nil {
				t.Fatal(err)
			}
			log.Error(errors.New("broken"), "failed")
			log.Info("said", "level", "mine")
			log.V(1).Info("decided")
			log.V(4).Info("looked")
			log.V(5).Info("never")
			var got []string
			for line := range strings.Lines(out.String()) {
				var entry struct{ Level, Msg, Err string }
				// The first "level" counts, so a field of that name can't hide it.
				line = strings.Replace(line, `,"level":"mine"`, "", 1)
				if err := json.Unmarshal([]byte(line), &entry); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				if entry.Level == "ERROR" && entry.Err != "broken" {
					t.Errorf("the error is missing: %s", line)
				}
				got = append(got, entry.Level+":"+entry.Msg)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("logged %q, want %q", got, want)
			}
		})
	}
}

func TestFormat(t *testing.T) {
	terminal, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if !IsTerminal(terminal) {
		t.Error("a character device is not taken for a terminal")
	}
	for format, want := range map[string]string{"": "{", "auto": "{", "json": "{", "text": "time="} {
		path := filepath.Join(t.TempDir(), "log")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		log, err := New(Config{Writer: file, Format: format})
		if err != nil {
			t.Fatal(err)
		}
		log.WithValues("registry", "quay.io").Info("said")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(data), want) || !strings.Contains(string(data), "quay.io") {
			t.Errorf("format %q logs %s", format, data)
		}
	}
}

func TestRefusesUnknown(t *testing.T) {
	for _, cfg := range []Config{{Level: "warn"}, {Format: "xml"}} {
		cfg.Writer = new(bytes.Buffer)
		if _, err := New(cfg); err == nil {
			t.Errorf("New(%+v) took it", cfg)
		}
	}
}
