// Package logging owns the look of the log: text for people on a terminal, JSON for machines elsewhere.
//
// It makes the logger that the daemon hands to its parts. What is logged, and when, is theirs.
package logging

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
)

// Config configures a logger.
type Config struct {
	// Writer takes the log, one Write per line. Required. Writes come one at a time.
	Writer io.Writer
	// Level is the least that is logged: "error", "info" (V(0)) or "debug" (V(1) to V(4)). More helps to find out why
	// something happened; at info there is one line per request. Default: info.
	Level string
	// Format is "text", "json" or "auto": text if Writer is a terminal, else JSON. Default: auto.
	Format string
}

// New makes a logger. It is safe for concurrent use.
func New(cfg Config) (logr.Logger, error) {
	options := &slog.HandlerOptions{ReplaceAttr: nameLevel}
	switch cfg.Level {
	case "error":
		options.Level = slog.LevelError
	case "info", "":
		options.Level = slog.LevelInfo
	case "debug":
		options.Level = slog.LevelDebug
	default:
		return logr.Logger{}, fmt.Errorf("make logger: no level is called %q", cfg.Level)
	}
	text := IsTerminal(cfg.Writer)
	switch cfg.Format {
	case "auto", "":
	case "text", "json":
		text = cfg.Format == "text"
	default:
		return logr.Logger{}, fmt.Errorf("make logger: no format is called %q", cfg.Format)
	}
	var handler slog.Handler = slog.NewJSONHandler(cfg.Writer, options)
	if text {
		handler = slog.NewTextHandler(cfg.Writer, options)
	}
	return logr.FromSlogHandler(handler), nil
}

// IsTerminal tells whether a person probably reads what is written to w. It takes every character device for a
// terminal: of those that are none, only /dev/null is in use, and there nobody minds.
func IsTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// nameLevel gives logr's verbosities slog's name for them: V(1) would else be called DEBUG+3, and no search for
// level=DEBUG would find it.
func nameLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 || a.Key != slog.LevelKey {
		return a
	}
	if level, ok := a.Value.Any().(slog.Level); ok && level < slog.LevelInfo {
		a.Value = slog.AnyValue(slog.LevelDebug)
	}
	return a
}
