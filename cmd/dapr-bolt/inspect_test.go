package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/logtest"
)

func TestPublishShowsInTheTopic(t *testing.T) {
	p := start(t, newFolders(t))
	require.Contains(t, p.ok(t, "publish", "orders", `{"n":1}`, "--id", "e-1", "--metadata", "colour=blue"), `published to "orders", id "e-1"`)
	require.Contains(t, p.ok(t, "publish", "orders", `{"n":1}`, "--id", "e-1"), "e-1", "a duplicate succeeds")
	events := p.ok(t, "topics", "events", "orders")
	require.Equal(t, 2, strings.Count(events, "\n"), events)
	require.Contains(t, events, "e-1")
	event := p.ok(t, "topics", "event", "orders", "1")
	require.Contains(t, event, `"n": 1`)
	require.Contains(t, event, `"specversion": "1.0"`)
	require.Contains(t, p.ok(t, "topics", "show", "orders"), "orders")

	for args, want := range map[string]string{
		"publish orders":                       "there is no data: allowed: an argument, or --file",
		"publish orders 1 --metadata x":        `invalid value "x" for --metadata: allowed: key=value`,
		"topics event orders x":                `invalid SEQUENCE "x": allowed`,
		"topics event orders 2":                `event 2 of topic "orders": not found`,
		"state delete k":                       "there is no --etag",
		"retries now orders app 1":             "no retry of event 1",
		"buckets remove topics x --yes":        `kind "topics": allowed: state, pubsub`,
		"buckets remove state none --yes":      `no state bucket "none": there is state`,
		"dead-letters list --reason x --all":   "",
		"topics remove missing --yes":          `topic "missing": not found`,
		"state query {":                        "invalid QUERY: allowed: JSON",
		"state get nothing":                    `key "nothing": not found`,
		"state list --limit 0":                 "allowed: 1 to 1000",
		"dead-letters redrive --cause x":       "go with --all",
		"state set k v --etag none --data-x y": "unknown flag",
		"state set k v --ttl soon":             `invalid argument "soon" for "--ttl" flag: allowed: seconds, 0 or more`,
	} {
		got := shell{}.run(t, append(strings.Fields(args), "--data-dir", p.data)...)
		if want != "" {
			require.NotEqual(t, exitOK, got.code, args)
		}
		require.Contains(t, got.stderr, want, args)
	}

	require.Contains(t, p.ok(t, "overview"), "nothing needs a person")
	require.Contains(t, p.ok(t, "topics", "remove", "orders", "--yes"), `topic "orders" removed`)
	require.NotContains(t, p.ok(t, "topics", "--output", "json"), "orders")
}

// What metadata says of an event holds in a publish from here, too.
func TestPublishReadsItsMetadata(t *testing.T) {
	p := start(t, newFolders(t))
	require.Contains(t, p.ok(t, "publish", "orders", "1", "--metadata", "deliverAfter=1h", "--metadata", "partitionKey=k", "--metadata", "ttlInSeconds=7200"), `id "`)
	var topic admin.TopicStats
	require.NoError(t, json.Unmarshal([]byte(p.ok(t, "topics", "show", "orders", "--output", "json")), &topic))
	require.EqualValues(t, 1, topic.Delayed)
	require.Contains(t, p.ok(t, "publish", "orders", "1", "--metadata", "eventID=e-1"), `id "e-1"`)

	got := shell{}.run(t, "publish", "orders", "1", "--metadata", "ttlInSeconds=soon", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `ttlInSeconds "soon": allowed: a whole number of seconds from 1 to `)
	got = shell{}.run(t, "publish", "orders", "1", "--metadata", "deliverAfter=soon", "--data-dir", p.data)
	require.Contains(t, got.stderr, `deliverAfter "soon": allowed: a duration of 0 or more, up to 2147483647 seconds, such as 30s or 168h`+"\n")
}

// What is published raw may have no id: that is said, with what follows from it.
func TestPublishRawSaysWhetherThereIsAnID(t *testing.T) {
	p := start(t, newFolders(t))
	require.Equal(t, `published to "raw", without an id: published again, it is stored again; --id names it`+"\n", p.ok(t, "publish", "raw", "1", "--raw"))
	require.Contains(t, p.ok(t, "topics", "event", "raw", "1"), "event 1 of topic raw, id -, 1 B")
	const cloudEvent = `{"specversion":"1.0","id":"c-1","source":"shop","type":"t"}`
	for range 2 {
		require.Equal(t, `published to "cloud", id "c-1"`+"\n", p.ok(t, "publish", "cloud", cloudEvent, "--raw"))
	}
	events := p.ok(t, "topics", "events", "cloud")
	require.Equal(t, 2, strings.Count(events, "\n"), "a line of titles, and the one event: %s", events)
}

func TestStateOnTheCommandLine(t *testing.T) {
	p := start(t, newFolders(t))
	var set admin.Key
	require.NoError(t, json.Unmarshal([]byte(p.ok(t, "state", "set", "api||a", `{"city":"Rome"}`, "--output", "json")), &set))
	require.Contains(t, p.ok(t, "state", "list", "api||"), set.ETag)
	require.Contains(t, p.ok(t, "state", "apps"), "api")
	require.Contains(t, p.ok(t, "state", "get", "api||a"), `"city": "Rome"`)
	require.Contains(t, p.ok(t, "state", "query", `{"filter":{"EQ":{"city":"Rome"}}}`), "api||a")
	p.ok(t, "state", "set", "api||a", "2", "--etag", set.ETag)
	got := shell{}.run(t, "state", "delete", "api||a", "--etag", set.ETag, "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "does not match")
	got = shell{}.run(t, "state", "set", "api||a", "3", "--data-dir", p.data)
	require.Contains(t, got.stderr, "it exists")
	p.ok(t, "state", "delete", "api||a", "--force")
	got = shell{}.run(t, "state", "list", "--data-dir", p.data)
	require.Contains(t, got.stderr, "no keys")
	require.Contains(t, p.ok(t, "buckets"), "state")
	require.Contains(t, p.ok(t, "buckets", "remove", "state", "state", "--yes"), "state bucket state removed")
}

// A name that is no text would arrive as another one; what is published or set may be any bytes.
func TestArgumentsThatAreNoTextAreRefused(t *testing.T) {
	p := start(t, newFolders(t))
	for _, args := range [][]string{
		{"publish", "orders\xff", "1"}, {"topics", "show", "orders\xff"}, {"topics", "remove-group", "orders", "app\xff"},
		{"state", "set", "k\xff", "1"}, {"state", "delete", "k\xff", "--force"},
	} {
		got := shell{}.run(t, append(args, "--data-dir", p.data)...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, `\xff": allowed: UTF-8`, args)
	}
	p.ok(t, "state", "set", "k", "\xff")
	got := shell{}.run(t, "state", "get", "k", "--data-dir", p.data)
	require.Equal(t, "/w==\n", got.stdout)
	require.Contains(t, got.stderr, "base64")
}

func TestDataOfAFileIsReadUpToWhatIsAllowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "endless")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, 1<<40))
	for _, command := range []string{"state set k --force", "publish orders", "state query"} {
		got := shell{}.run(t, append(strings.Fields(command), "--file", path, "--data-dir", t.TempDir())...)
		require.Equal(t, exitUsage, got.code, command)
		require.Contains(t, got.stderr, "too much data in --file "+path+": allowed: at most 4128768 bytes", command)
	}
}

func TestDeadLettersAreGroupedByCause(t *testing.T) {
	p := withDeadLetters(t, `1`, `2`, `3`)
	groups := p.ok(t, "dead-letters", "groups")
	require.Regexp(t, `(?m)^3 +orders +app +max-deliver .* cannot book order #`, groups)
	var found []admin.DeadLetterGroup
	require.NoError(t, json.Unmarshal([]byte(p.ok(t, "dead-letters", "groups", "--output", "json")), &found))
	require.Len(t, p.list(t, "--cause", found[0].Cause), 3)
	require.Empty(t, p.list(t, "--reason", "expired"))
	require.Empty(t, p.list(t, "--before", "1h"))
	require.Equal(t, "3 dead letters removed\n", p.ok(t, "dead-letters", "purge", "--all", "--cause", found[0].Cause, "--yes"))
}

func TestTopicsWatchShowsEvents(t *testing.T) {
	p := start(t, newFolders(t))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out logtest.Buffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, &environment{
			in: strings.NewReader(""), out: &out, errOut: &out, width: func() int { return 0 },
			lookupEnv: func(string) (string, bool) { return "", false }, clock: clockwork.NewRealClock(),
		}, []string{"topics", "watch", "orders", "--data-dir", p.data})
	}()
	require.Eventually(t, func() bool { // until it watches
		p.ok(t, "publish", "orders", "hello", "--raw")
		return strings.Contains(out.String(), "hello")
	}, patience, 10*time.Millisecond)
	stop()
	require.Equal(t, exitOK, <-done, out.String())
}

// TestEveryCallHasACommand runs the commands against a socket that takes down what it is asked: what the console can do, the
// command line can, and the other way round, as both have nothing but these calls.
func TestEveryCallHasACommand(t *testing.T) {
	f := newFolders(t)
	require.NoError(t, os.MkdirAll(f.data, 0o700))
	l, err := net.Listen("unix", f.adminSocket())
	require.NoError(t, err)
	var mu sync.Mutex
	asked := map[string]bool{}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path] = true
		_, _ = w.Write([]byte(`{}`))
	})}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	defer func() {
		require.NoError(t, server.Close())
		<-ended
	}()

	for _, command := range []string{
		"health", "overview", "buckets", "buckets remove state x --yes", "backup x.db",
		"topics", "topics show t", "topics events t", "topics event t 1", "topics watch t", "topics remove t --yes", "topics remove-group t* g --yes",
		"publish t 1", "retries list t", "retries now t g 1", "retries skip t g 1",
		"dead-letters list --bucket b", "dead-letters show 1", "dead-letters redrive 1", "dead-letters purge 1 --yes", "dead-letters groups", "dead-letters jobs", "dead-letters stop-job 1",
		"state list", "state apps", "state get k", "state set k v", "state delete k --etag 1", "state query {}", "state indexes", "state idempotency-keys",
	} {
		shell{}.run(t, append(strings.Fields(command), "--data-dir", f.data)...)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, path := range admin.Calls() {
		require.True(t, asked[path], "no command asks for %s", path)
	}
}

func TestHealthIsNotAskedForForEver(t *testing.T) {
	f := newFolders(t)
	require.NoError(t, os.MkdirAll(f.data, 0o700))
	l, err := net.Listen("unix", f.adminSocket()) // which nobody accepts from
	require.NoError(t, err)
	defer l.Close()
	got := shell{}.run(t, "health", "--timeout", "100ms", "--data-dir", f.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, f.adminSocket())
	require.Contains(t, got.stderr, "no answer within 100ms")
	got = shell{}.run(t, "health", "--timeout", "soon", "--data-dir", f.data)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, `invalid argument "soon" for "--timeout" flag: allowed: `)
}
