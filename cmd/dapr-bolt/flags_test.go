package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
)

func TestBadCommandLinesAreRefused(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--log-level", "loud"}, `invalid argument "loud" for "--log-level" flag: allowed: debug, info, warn, error`},
		{[]string{"--log-json=maybe"}, `invalid argument "maybe" for "--log-json" flag: allowed: true, false`},
		{[]string{"--http-listen", "9180"}, `invalid argument "9180" for "--http-listen" flag: allowed: host:port`},
		{[]string{"--socket-group", "no such group"}, `invalid argument "no such group" for "--socket-group" flag: allowed: the name or the number of a group`},
		{[]string{"--allow-uid", "1000,bob"}, `invalid argument "1000,bob" for "--allow-uid" flag: allowed: numbers of 0 to 4294967295`},
		{[]string{"--allow-gid", "-1"}, `invalid argument "-1" for "--allow-gid" flag: allowed: numbers`},
		{[]string{"--max-streams", "0"}, `invalid argument "0" for "--max-streams" flag: allowed: 1 to 1000000`},
		{[]string{"--max-calls", "none"}, `invalid argument "none" for "--max-calls" flag: allowed: 1 to 1000000`},
		{[]string{"--max-topics", "many"}, `invalid argument "many" for "--max-topics" flag: allowed: 1 to 1000000`},
		{[]string{"--max-groups", "-1"}, `invalid argument "-1" for "--max-groups" flag: allowed: 1 to 1000000`},
		{[]string{"--max-pending-bytes", "1k"}, `invalid argument "1k" for "--max-pending-bytes" flag: allowed: a number of bytes from 1Mi to 1Ti`},
		{[]string{"--max-request-bytes", "a lot"}, `invalid argument "a lot" for "--max-request-bytes" flag: allowed: a number of bytes`},
		{[]string{"--http-listen", ":70000"}, `invalid argument ":70000" for "--http-listen" flag: allowed: host:port`},
		{[]string{"--name", "a/b"}, `invalid argument "a/b" for "--name" flag: invalid name "a/b": allowed: 1 to 64 letters`},
		{[]string{"--data-dir", ""}, `invalid argument "" for "--data-dir" flag: allowed: the path of a directory`},
		{[]string{"--socket-dir="}, `invalid argument "" for "--socket-dir" flag`},
		{[]string{"--date-dir", "x"}, "unknown flag: --date-dir"},
		{[]string{"dead-leters"}, `unknown command "dead-leters" for "dapr-bolt": did you mean dead-letters?`},
		{[]string{"serve"}, `unknown command "serve" for "dapr-bolt": allowed: backup, buckets, check`},
		{[]string{"dead-letters"}, "dapr-bolt dead-letters needs a subcommand: allowed: groups, jobs, list, purge, redrive, show, stop-job"},
		{[]string{"dead-letters", "lst"}, `unknown command "lst" for "dapr-bolt dead-letters": did you mean list?`},
		{[]string{"dead-letters", "list", "--since", "soon"}, `invalid argument "soon" for "--since" flag: allowed: a duration such as 90m`},
		{[]string{"dead-letters", "redrive", "--all", "--reason", "maxdeliver"}, `invalid argument "maxdeliver" for "--reason" flag: allowed: max-deliver, interrupted`},
		{[]string{"dead-letters", "list", "--limit", "0"}, `invalid argument "0" for "--limit" flag: allowed: 1 to 1000`},
		{[]string{"dead-letters", "list", "--after", "-1"}, `invalid argument "-1" for "--after" flag: allowed: a whole number`},
		{[]string{"dead-letters", "list", "--all", "--limit", "5"}, "there are --all and --limit"},
		{[]string{"dead-letters", "list", "--output", "yaml"}, `invalid argument "yaml" for "--output" flag: allowed: text, json`},
		{[]string{"dead-letters", "list", "--database", "../x"}, `invalid argument "../x" for "--database" flag: invalid name "../x"`},
		{[]string{"dead-letters", "list", "--bucket", ""}, `invalid argument "" for "--bucket" flag`},
		{[]string{"dead-letters", "show"}, "no arguments behind dapr-bolt dead-letters show: allowed: dapr-bolt dead-letters show ID"},
		{[]string{"dead-letters", "show", "x"}, `invalid ID "x": allowed: a whole number of 1 or more`},
		{[]string{"dead-letters", "redrive"}, "nothing is named: allowed: one ID or more, or --all"},
		{[]string{"dead-letters", "redrive", "1", "--all"}, "there are IDs and --all"},
		{[]string{"dead-letters", "redrive", "--topic", "t"}, "go with --all"},
		{[]string{"dead-letters", "redrive", "0"}, `invalid ID "0"`},
		{[]string{"dead-letters", "redrive", "1", "--rate", "fast"}, `invalid argument "fast" for "--rate" flag: allowed: a whole number of 1 or more and a unit`},
		{[]string{"dead-letters", "purge", "1"}, "Remove 1 dead letter for good? There is no terminal to ask on: add --yes"},
		{[]string{"topics", "remove-group", "t"}, `1 argument ["t"] behind dapr-bolt topics remove-group: allowed: dapr-bolt topics remove-group TOPIC GROUP`},
		{[]string{"topics", "--watch=often"}, `invalid argument "often" for "--watch" flag: allowed: a duration of at least 100ms`},
		{[]string{"backup"}, "no arguments behind dapr-bolt backup: allowed: dapr-bolt backup FILE"},
		{[]string{"check", "a", "b"}, "allowed: at most one FILE"},
		{[]string{"health", "--http-listen", "x:1"}, "unknown flag: --http-listen"},
		{[]string{"version", "x"}, `unknown argument "x"`},
	} {
		got := shell{env: map[string]string{"HOME": t.TempDir()}}.run(t, c.args...)
		require.Equal(t, exitUsage, got.code, "%q: %s", c.args, got.stderr)
		require.Contains(t, got.stderr, c.want)
		require.Empty(t, got.stdout)
	}
}

func TestBadEnvironmentIsRefused(t *testing.T) {
	for variable, c := range map[string]struct{ value, want string }{
		"DAPR_BOLT_DATA_DIR":    {"", "(--data-dir): allowed: the path of a directory"},
		"DAPR_BOLT_SOCKET_DIR":  {"", "(--socket-dir): allowed: the path of a directory"},
		"DAPR_BOLT_NAME":        {"a b", "(--name): invalid name"},
		"DAPR_BOLT_HTTP_LISTEN": {"here", "(--http-listen): allowed: host:port"},
		"DAPR_BOLT_LOG_LEVEL":   {"loud", "(--log-level): allowed: debug, info, warn, error"},
		"DAPR_BOLT_LOG_JSON":    {"maybe", "(--log-json): allowed: true, false"},
	} {
		got := shell{env: map[string]string{"HOME": t.TempDir(), variable: c.value}}.run(t)
		require.Equal(t, exitUsage, got.code, got.stderr)
		require.Contains(t, got.stderr, `invalid value "`+c.value+`" for environment variable `+variable+" "+c.want)
	}
}

// The socket that a command looks for tells which data directory it took.
func TestTheDataDirectoryOfFlagEnvironmentAndDefault(t *testing.T) {
	env := map[string]string{}
	socket := func(args ...string) string {
		t.Helper()
		got := shell{env: env}.run(t, append([]string{"health"}, args...)...)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, "start it with: dapr-bolt --data-dir ")
		return got.stderr
	}
	require.Equal(t, exitUsage, shell{}.run(t, "health").code, "no home, no default")
	env["HOME"] = "/h"
	require.Contains(t, socket(), "/h/.local/share/dapr-bolt/admin.sock")
	env["XDG_DATA_HOME"] = "relative"
	require.Contains(t, socket(), "/h/.local/share/dapr-bolt/admin.sock")
	env["XDG_DATA_HOME"] = "/x"
	require.Contains(t, socket(), "/x/dapr-bolt/admin.sock")
	env["DAPR_BOLT_DATA_DIR"] = "/e"
	require.Contains(t, socket(), "/e/admin.sock")
	require.Contains(t, socket("--data-dir", "/f"), "/f/admin.sock")
	here, err := filepath.Abs("r")
	require.NoError(t, err)
	require.Contains(t, socket("--data-dir", "r"), here+"/admin.sock")
}

func TestTheEnvironmentServesAsFlagsDo(t *testing.T) {
	f := newFolders(t)
	for name, value := range map[string]string{
		"DAPR_BOLT_NAME": "env", "DAPR_BOLT_LOG_JSON": "true", "DAPR_BOLT_SOCKET_DIR": "/nowhere/at/all",
	} {
		t.Setenv(name, value)
	}
	p := start(t, f) // its --socket-dir goes before the variable
	require.FileExists(t, filepath.Join(f.sockets, "env.sock"))
	p.stop(t)
	require.Contains(t, p.stderr.String(), `"types":"state.env, pubsub.env"`)
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	parse := parseSince(clockwork.NewFakeClockAt(now))
	for text, want := range map[string]time.Time{
		"90m":                  now.Add(-90 * time.Minute),
		"0s":                   now,
		"2025-12-31T23:00:00Z": time.Date(2025, 12, 31, 23, 0, 0, 0, time.UTC),
	} {
		got, err := parse(text)
		require.NoError(t, err)
		require.True(t, want.Equal(got), text)
	}
	for _, text := range []string{"", "-1h", "yesterday", "2025-12-31"} {
		_, err := parse(text)
		require.ErrorContains(t, err, "allowed: ", text)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]float64{"10/s": 10, "30/m": 0.5, "3600/h": 1} {
		got, err := parseRate(text)
		require.NoError(t, err)
		require.InDelta(t, want, got, 1e-9, text)
	}
	for _, text := range []string{"", "10", "0/s", "-1/s", "1/d", "x/s", "1/s/s"} {
		_, err := parseRate(text)
		require.ErrorContains(t, err, "allowed: ", text)
	}
}
