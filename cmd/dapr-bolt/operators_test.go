package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// twoBuckets are folders with a dead letter in the default bucket, and one each in another bucket and another database.
func twoBuckets(t *testing.T) folders {
	t.Helper()
	f := newFolders(t)
	leaveDeadLetters(t, f, "dapr", "pubsub", "first", `1`)
	leaveDeadLetters(t, f, "dapr", "audit", "second", `2`)
	leaveDeadLetters(t, f, "shop", "pubsub", "third", `3`)
	return f
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, string(body))
	http.DefaultClient.CloseIdleConnections()
	return string(body)
}

func (p *program) metrics(t *testing.T) string {
	t.Helper()
	var info struct{ HTTP string }
	require.NoError(t, json.Unmarshal([]byte(p.ok(t, "health", "--output", "json")), &info))
	return get(t, "http://"+info.HTTP+"/metrics")
}

func TestMetricsCountEveryBucketFromTheStart(t *testing.T) {
	p := start(t, twoBuckets(t), "--http-listen", "127.0.0.1:0")
	metrics := p.metrics(t)
	for _, in := range []string{`bucket="pubsub",database="dapr"`, `bucket="audit",database="dapr"`, `bucket="pubsub",database="shop"`} {
		require.Contains(t, metrics, `dapr_bolt_group_dead_letters{`+in+`,group="app",topic="orders"} 1`)
	}
}

func TestListsShowAllBuckets(t *testing.T) {
	p := start(t, twoBuckets(t))
	table := p.ok(t, "dead-letters", "list")
	require.Equal(t, 4, strings.Count(table, "\n"), table)
	for _, row := range []string{`(?m)^1 +audit +orders .* second$`, `(?m)^1 +pubsub +orders .* first$`, `(?m)^1 +shop/pubsub +orders .* third$`} {
		require.Regexp(t, row, table)
	}
	require.Len(t, p.list(t), 3)
	require.Len(t, p.list(t, "--bucket", "audit"), 1)
	require.Equal(t, "shop", p.list(t, "--database", "shop")[0].Database)
	require.Len(t, p.list(t, "--limit", "2"), 2)
	got := shell{}.run(t, "dead-letters", "list", "--limit", "1", "--data-dir", p.data)
	require.Contains(t, got.stderr, "there may be more: --all lists all of them; not looked into: pubsub, shop/pubsub")
	got = shell{}.run(t, "dead-letters", "list", "--after", "1", "--data-dir", p.data)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "--after goes with --bucket")

	table = p.ok(t, "topics")
	for _, bucket := range []string{"audit", "pubsub", "shop/pubsub"} {
		require.Regexp(t, `(?m)^`+bucket+` +orders `, table)
	}
	require.Equal(t, 1, strings.Count(p.ok(t, "topics", "--bucket", "audit", "--output", "json"), `"topic"`))

	// What is changed is changed in one bucket.
	require.Equal(t, "1 dead letter removed\n", p.ok(t, "dead-letters", "purge", "--all", "--yes"))
	require.Len(t, p.list(t), 2)
	got = shell{}.run(t, "dead-letters", "redrive", "1", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "not among the dead letters of bucket pubsub: 1: allowed with --bucket, and --database before a slash: audit, pubsub, shop/pubsub")
	got = shell{}.run(t, "dead-letters", "show", "1", "--data-dir", p.data)
	require.Contains(t, got.stderr, "--bucket")
	require.Contains(t, p.ok(t, "dead-letters", "show", "1", "--bucket", "audit"), "second")
}

// Each number of a topic and of a group has one name, in the table, in JSON and in the metrics.
func TestOneNumberHasOneName(t *testing.T) {
	p := start(t, twoBuckets(t), "--http-listen", "127.0.0.1:0")
	table, fields, metrics := p.ok(t, "topics"), p.ok(t, "topics", "--output", "json"), p.metrics(t)
	for _, name := range []string{"topic delayed", "group waiting", "group in flight", "group retrying"} {
		of, words, _ := strings.Cut(name, " ")
		require.Contains(t, table, strings.ToUpper(words))
		require.Contains(t, metrics, "dapr_bolt_"+of+"_"+strings.ReplaceAll(words, " ", "_")+"_events{")
		first, second, two := strings.Cut(words, " ")
		if two {
			first += strings.ToUpper(second[:1]) + second[1:]
		}
		require.Contains(t, fields, `"`+first+`":`)
	}
}

func TestListsShowTheCauseOfAFailure(t *testing.T) {
	const failure = "retriable error occurred: retriable error returned from app while processing pub/sub event 0123456789-0123456789-0123456789, topic: orders, body: no slot left. status code returned: 500"
	f := newFolders(t)
	leaveDeadLetters(t, f, "dapr", "pubsub", failure, `1`)
	leaveRetry(t, f, failure)
	p := start(t, f)
	for _, args := range [][]string{{"dead-letters", "list"}, {"retries", "list", "orders"}, {"topics", "event", "orders", "1"}} {
		require.Regexp(t, `(?m) no slot left \(status 500\)$`, p.ok(t, args...), "%q", args)
	}
	require.Contains(t, p.ok(t, "dead-letters", "show", "1"), "retriable error returned from app", "all of it")
}

// leaveRetry leaves an event that waits for its second delivery.
func leaveRetry(t *testing.T, f folders, failure string) {
	t.Helper()
	m, err := databases.Open(t.Context(), databases.Options{Dir: f.data})
	require.NoError(t, err)
	broker, err := m.Broker(t.Context(), databases.DefaultDatabase, databases.DefaultPubSubBucket)
	require.NoError(t, err)
	sub, err := broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Group: "app", Topic: "orders", BackOff: pubsub.BackOff{time.Hour}})
	require.NoError(t, err)
	require.NoError(t, broker.Publish(t.Context(), "orders", []pubsub.Message{{Data: []byte("2")}}, pubsub.PublishOptions{})[0])
	delivery, err := sub.Next(t.Context())
	require.NoError(t, err)
	delivery.Nack(failure)
	sub.Close()
	require.NoError(t, m.Close(t.Context()))
}

func TestTimesCarryAges(t *testing.T) {
	at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for passed, want := range map[time.Duration]string{
		0: "now", 42 * time.Second: "42s ago", 3*time.Minute + 59*time.Second: "3m ago", 5 * time.Hour: "5h ago", 50 * time.Hour: "2d ago",
		-90 * time.Second: "in 1m", -72 * time.Hour: "in 3d",
	} {
		require.Equal(t, want, age(at, at.Add(passed)))
	}
	p := withDeadLetters(t, `1`)
	later := shell{clock: clockwork.NewFakeClockAt(time.Now().Add(3 * time.Hour))}
	for _, args := range [][]string{{"dead-letters", "list"}, {"dead-letters", "show", "1"}} {
		got := later.run(t, append(args, "--data-dir", p.data)...)
		require.Regexp(t, `2h ago \(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)|3h ago \(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)`, got.stdout)
	}
}

func TestTablesFitTheTerminal(t *testing.T) {
	f := newFolders(t)
	leaveDeadLetters(t, f, "dapr", "pubsub", strings.Repeat("a cause that takes much room, ", 10), `1`, `2`)
	p := start(t, f)
	for _, args := range [][]string{{"dead-letters", "list"}, {"topics"}} {
		free := p.ok(t, args...)
		for _, width := range []int{200, 120, 80, 40} {
			got := shell{width: width}.run(t, append(args, "--data-dir", p.data)...)
			require.Equal(t, exitOK, got.code, got.stderr)
			for line := range strings.Lines(got.stdout) {
				require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), width, got.stdout)
			}
			require.Contains(t, got.stdout, "orders")
			if width >= 80 {
				require.Equal(t, strings.Count(free, "\n"), strings.Count(got.stdout, "\n"), "it stays a table:\n%s", got.stdout)
			}
		}
	}
	require.NotContains(t, p.ok(t, "dead-letters", "list"), "…", "a file or a pipe gets all of it")
}

func TestTopicsWatch(t *testing.T) {
	p := withDeadLetters(t, `1`)
	clock := clockwork.NewFakeClock()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan result, 1)
	go func() {
		defer stop()
		done <- shell{clock: clock, ctx: ctx}.run(t, "topics", "--watch=5s", "--data-dir", p.data)
	}()
	require.NoError(t, clock.BlockUntilContext(ctx, 1))
	p.ok(t, "dead-letters", "purge", "--all", "--yes")
	clock.Advance(5 * time.Second)
	require.NoError(t, clock.BlockUntilContext(ctx, 1))
	stop()
	got := <-done
	require.Equal(t, exitOK, got.code, got.stderr)
	dead := regexp.MustCompile(`(?m)^orders +app .* (\d) +\d+ +\d+$`).FindAllStringSubmatch(got.stdout, -1)
	require.Len(t, dead, 2, got.stdout)
	require.Equal(t, "1 0", dead[0][1]+" "+dead[1][1], "dead letters, then and now")
}

func TestRemoveGroupLooksBeforeItAsks(t *testing.T) {
	p := withDeadLetters(t, `1`, `2`)
	remove := func(typed string, args ...string) result {
		return shell{typed: typed}.run(t, append([]string{"topics", "remove-group", "--data-dir", p.data}, args...)...)
	}
	for _, c := range []struct{ topic, group, want string }{
		{"order", "app", `bucket pubsub has no topic "order": there is orders`},
		{"orders", "ap", `topic "orders" has no group "ap": there is app`},
	} {
		got := remove("y\n", c.topic, c.group)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, c.want)
		require.NotContains(t, got.stderr, "[y/N]")
	}
	got := remove("", "orders", "app")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "There is no terminal to ask on: add --yes")
	got = remove("n\n", "orders", "app")
	require.Contains(t, got.stderr, `Remove group "app" of topic "orders", with 0 events that it is owed and 2 dead letters? [y/N]`)
	require.Len(t, p.list(t), 2)
	got = remove("y\n", "orders", "app")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Empty(t, p.list(t))
}

func TestVersionFlag(t *testing.T) {
	got := shell{}.run(t, "--version")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, shell{env: map[string]string{"HOME": "/h"}}.run(t, "version").stdout, got.stdout)
}

func TestAMistypedSubcommandIsSuggested(t *testing.T) {
	for typed, want := range map[string]string{
		"dead-letters lst":       `unknown command "lst" for "dapr-bolt dead-letters": did you mean list?`,
		"dead-letters forget":    `unknown command "forget" for "dapr-bolt dead-letters": allowed: groups, jobs, list, purge, redrive, show, stop-job`,
		"topics remove-grup t g": `unknown command "remove-grup" for "dapr-bolt topics": did you mean remove-group?`,
		"topcs":                  `unknown command "topcs" for "dapr-bolt": did you mean topics?`,
	} {
		got := shell{env: map[string]string{"HOME": "/h"}}.run(t, strings.Fields(typed)...)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.stderr, want)
	}
}

func TestCompletion(t *testing.T) {
	require.Contains(t, shell{}.run(t, "--help").stdout, "completion ")
	require.Equal(t, exitOK, shell{env: map[string]string{"HOME": "/h"}}.run(t, "completion", "bash").code)

	p := start(t, twoBuckets(t))
	complete := func(args ...string) string {
		t.Helper()
		got := shell{env: map[string]string{"DAPR_BOLT_DATA_DIR": p.data}}.run(t, append([]string{"__complete"}, args...)...)
		require.Equal(t, exitOK, got.code, got.stderr)
		return got.stdout
	}
	for args, want := range map[string]string{
		"topics remove-group":                "orders",
		"topics remove-group orders":         "app",
		"dead-letters list --topic":          "orders",
		"dead-letters list --group":          "app",
		"dead-letters list --bucket":         "audit",
		"dead-letters list --database":       "shop",
		"dead-letters show":                  "1\torders, app: first",
		"dead-letters show --bucket audit":   "1\torders, app: second",
		"dead-letters redrive":               "1\torders",
		"dead-letters purge --database shop": "1\torders, app: third",
		"dead-letters list --output":         "json",
		"dead-letters":                       "redrive",
	} {
		require.Contains(t, complete(append(strings.Fields(args), "")...), want, args)
	}
	require.NotContains(t, complete("dead-letters", "redrive", "1", ""), "1\t", "it is named already")
	got := shell{env: map[string]string{"HOME": "/nowhere"}}.run(t, "__complete", "dead-letters", "show", "")
	require.Equal(t, exitOK, got.code, "without a process there is nothing to complete")
	require.Equal(t, fmt.Sprintln(":4"), got.stdout[:3])
}
