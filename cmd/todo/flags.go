package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
)

// config is what both services can be told.
type config struct {
	host           string
	port           uint16
	logJSON        bool
	logLevel       string
	sidecarTimeout time.Duration
	grace          time.Duration
}

func (c *config) register(flags *pflag.FlagSet, port uint16) {
	flags.StringVar(&c.host, "host", "127.0.0.1", "address to listen on")
	flags.Uint16Var(&c.port, "port", port, "port to listen on, for callers and for the sidecar")
	flags.BoolVar(&c.logJSON, "log-json", false, "log JSON lines")
	flags.StringVar(&c.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.DurationVar(&c.sidecarTimeout, "sidecar-timeout", time.Minute, "how long to wait for the sidecar at start")
	flags.DurationVar(&c.grace, "shutdown-timeout", 10*time.Second, "how long requests in hand may take when the service stops")
}

// fromEnvironment sets the flags that the command line left alone from TODO_… variables.
func fromEnvironment(flags *pflag.FlagSet) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "TODO_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed || failed != nil || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			failed = fmt.Errorf("environment variable %s: %w", name, err)
		}
	})
	return failed
}

func (c *config) logger(w io.Writer, service string) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.logLevel)); err != nil {
		return nil, invalid.NewField("log-level", c.logLevel, "debug, info, warn or error")
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if c.logJSON {
		handler = slog.NewJSONHandler(w, options)
	}
	return slog.New(handler).With("app_id", service), nil
}
