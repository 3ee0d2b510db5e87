package main

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

var logLevels = []string{"debug", "info", "warn", "error"}

// newLogger writes what a Dapr sidecar writes: the same fields under the same names
// (https://github.com/dapr/kit/blob/main/logger/dapr_logger.go), so that one rule collects both.
func newLogger(w io.Writer, level string, asJSON bool) *slog.Logger {
	var lowest slog.Level
	if err := lowest.UnmarshalText([]byte(level)); err != nil {
		panic(err) // it is one of logLevels
	}
	opts := &slog.HandlerOptions{Level: lowest, ReplaceAttr: daprAttr}
	var handler slog.Handler = slog.NewTextHandler(w, opts)
	if asJSON {
		handler = slog.NewJSONHandler(w, opts)
	}
	// Without a host name the field is empty, as the sidecar's is.
	host, _ := os.Hostname()
	return slog.New(handler).With("instance", host, "scope", "dapr-bolt", "type", "log", "ver", version())
}

func daprAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		if a.Value.Kind() == slog.KindTime {
			a.Value = slog.StringValue(a.Value.Time().Format(time.RFC3339Nano))
		}
	case slog.LevelKey:
		level := strings.ToLower(a.Value.String())
		if level == "warn" {
			level = "warning" // the sidecar's word
		}
		a.Value = slog.StringValue(level)
	}
	return a
}
