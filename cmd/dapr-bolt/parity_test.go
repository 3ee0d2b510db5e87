package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"

	"github.com/dapr-bolt/dapr-bolt/internal/console"
)

// inConsole are the console's routes, each with the commands that do the same.
var inConsole = map[string][]string{
	"GET /":                       {"overview"},
	"GET /topics":                 {"topics", "buckets"},
	"GET /topic":                  {"topics show", "topics watch", "topics events", "retries list"},
	"POST /topic/publish":         {"publish"},
	"POST /topic/remove":          {"topics remove"},
	"POST /topic/remove-group":    {"topics remove-group"},
	"GET /event":                  {"topics event"},
	"GET /event/payload":          {"topics event"},
	"POST /event/retry-now":       {"retries now"},
	"POST /event/skip":            {"retries skip"},
	"GET /state":                  {"state list", "state apps", "state indexes"},
	"GET /state/key":              {"state get"},
	"GET /state/key/value":        {"state get"},
	"POST /state/key/set":         {"state set"},
	"POST /state/key/delete":      {"state delete"},
	"GET /state/query":            {"state query"},
	"GET /state/idempotency-keys": {"state idempotency-keys"},
	"POST /bucket/remove":         {"buckets remove"},
	"GET /dead-letters":           {"dead-letters groups", "dead-letters list"},
	"POST /dead-letters/redrive":  {"dead-letters redrive"},
	"POST /dead-letters/purge":    {"dead-letters purge"},
	"GET /dead-letter":            {"dead-letters show"},
	"GET /dead-letter/payload":    {"dead-letters show"},
	"GET /job":                    {"dead-letters jobs"},
	"POST /job/stop":              {"dead-letters stop-job"},
}

// onlyCommands are about files, processes and the command line itself.
var onlyCommands = []string{
	"backup", "check", "compact", "restore", "migrate", "dev", "health", "console", "version", "man", "completion", "help",
}

// What one can do in the console, one can do on the command line, and the other way round.
func TestTheConsoleAndTheCommandsDoTheSame(t *testing.T) {
	// parents hold commands, and do little themselves.
	var commands, parents []string
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Runnable() {
			path := strings.TrimPrefix(cmd.CommandPath(), "dapr-bolt ")
			commands = append(commands, path)
			if cmd.HasSubCommands() {
				parents = append(parents, path)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	for _, cmd := range newRoot(&environment{}).Commands() {
		walk(cmd)
	}
	var known []string
	for _, route := range console.Routes() {
		assert.Contains(t, inConsole, route, "a route without a command")
	}
	for route, does := range inConsole {
		assert.Contains(t, console.Routes(), route)
		for _, command := range does {
			assert.Contains(t, commands, command, route)
		}
		known = append(known, does...)
	}
	for _, command := range commands {
		name, _, _ := strings.Cut(command, " ")
		assert.True(t, slices.Contains(known, command) || slices.Contains(parents, command) || slices.Contains(onlyCommands, name), "command %s is in no route", command)
	}
}
