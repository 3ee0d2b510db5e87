package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// withDeadLetters starts a process whose group "app" has given up on one event of topic "orders" for each payload, and
// has none left over.
func withDeadLetters(t *testing.T, payloads ...string) *program {
	t.Helper()
	f := newFolders(t)
	leaveDeadLetters(t, f, databases.DefaultDatabase, databases.DefaultPubSubBucket, "cannot book\norder %d\x1b[31m", payloads...)
	return start(t, f)
}

// leaveDeadLetters leaves such dead letters in a bucket. failure may hold %d for the number of the event.
func leaveDeadLetters(t *testing.T, f folders, database, bucket, failure string, payloads ...string) {
	t.Helper()
	m, err := databases.Open(t.Context(), databases.Options{Dir: f.data})
	require.NoError(t, err)
	broker, err := m.Broker(t.Context(), database, bucket)
	require.NoError(t, err)
	sub, err := broker.Subscribe(t.Context(), pubsub.SubscribeOptions{Group: "app", Topic: "orders", MaxDeliver: 1})
	require.NoError(t, err)
	byID, err := pubsub.ParseDedupBy("id")
	require.NoError(t, err)
	for i, payload := range payloads {
		message := pubsub.Message{Data: []byte(payload), ContentType: "application/json", EventID: fmt.Sprintf("event-%d", i+1), Metadata: map[string]string{"colour": "blue"}}
		require.NoError(t, broker.Publish(t.Context(), "orders", []pubsub.Message{message},
			pubsub.PublishOptions{DedupBy: byID, DedupWindow: time.Minute})[0])
		delivery, err := sub.Next(t.Context())
		require.NoError(t, err)
		delivery.Nack(strings.ReplaceAll(failure, "%d", fmt.Sprint(i+1)))
	}
	require.Eventually(t, func() bool {
		letters, _, err := broker.DeadLetters(t.Context(), pubsub.DeadLetterFilter{}, 0)
		return err == nil && len(letters) == len(payloads)
	}, patience, time.Millisecond)
	sub.Close()
	require.NoError(t, m.Close(t.Context()))
}

// ok runs a command line that must succeed against the process.
func (p *program) ok(t *testing.T, args ...string) string {
	t.Helper()
	got := shell{}.run(t, append(args, "--data-dir", p.data)...)
	require.Equal(t, exitOK, got.code, "%q: %s", args, got.stderr)
	return got.stdout
}

func (p *program) list(t *testing.T, args ...string) []admin.DeadLetter {
	t.Helper()
	var letters []admin.DeadLetter
	out := p.ok(t, append([]string{"dead-letters", "list", "--output", "json"}, args...)...)
	require.NoError(t, json.Unmarshal([]byte(out), &letters), out)
	return letters
}

func TestDeadLettersList(t *testing.T) {
	p := withDeadLetters(t, `{"n":1}`, `{"n":2}`, "plain")

	table := strings.Split(strings.TrimSpace(p.ok(t, "dead-letters", "list")), "\n")
	require.Len(t, table, 4)
	require.Equal(t, []string{"ID", "BUCKET", "TOPIC", "GROUP", "TIME", "REASON", "DELIVERIES", "EVENT", "ID", "LAST", "ERROR"}, strings.Fields(table[0]))
	row := strings.Fields(table[1])
	require.Equal(t, []string{"pubsub", "orders", "app"}, row[1:4])
	require.Equal(t, []string{"max-deliver", "1", "event-1", "cannot", "book", "order", "1�[31m"}, row[len(row)-7:], "one line, and nothing for the terminal")

	letters := p.list(t)
	require.Len(t, letters, 3)
	require.JSONEq(t, `{"n":1}`, string(letters[0].Event.Data))
	require.Equal(t, admin.DataText, letters[2].Event.DataEncoding)
	require.Equal(t, "cannot book\norder 1\x1b[31m", letters[0].LastError)

	first := fmt.Sprint(letters[0].ID)
	require.Equal(t, letters[1:2], p.list(t, "--after", first, "--limit", "1"))
	require.Equal(t, letters, p.list(t, "--all"))
	require.Equal(t, letters[1:2], p.list(t, "--text", `"n":2`))
	require.Len(t, p.list(t, "--topic", "orders", "--group", "app", "--since", "1h"), 3)
	require.Empty(t, p.list(t, "--topic", "other"))
	require.Empty(t, p.list(t, "--group", "other"))
	require.Empty(t, p.list(t, "--since", time.Now().Add(time.Hour).Format(time.RFC3339)))

	got := shell{}.run(t, "dead-letters", "list", "--limit", "2", "--data-dir", p.data)
	require.Equal(t, 3, strings.Count(got.stdout, "\n"))
	require.Contains(t, got.stderr, fmt.Sprintf("there are more: --after %d", letters[1].ID))
	got = shell{}.run(t, "dead-letters", "list", "--limit", "3", "--data-dir", p.data)
	require.Empty(t, got.stderr)
	got = shell{}.run(t, "dead-letters", "list", "--bucket", "other", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `database dapr has no pub/sub bucket "other": there is pubsub`)
}

func TestDeadLettersShow(t *testing.T) {
	p := withDeadLetters(t, `{"n":12345678901234567890,"html":"<b>"}`)
	id := fmt.Sprint(p.list(t)[0].ID)

	text := p.ok(t, "dead-letters", "show", id)
	for _, want := range []string{
		"topic          orders\n", "group          app\n", "reason         max-deliver\n", "event id       event-1\n",
		"metadata       colour=blue\n", "attempt 1      ", "cannot book\n               order 1\ufffd[31m\n",
		"{\n  \"n\": 12345678901234567890,\n  \"html\": \"<b>\"\n}\n",
	} {
		require.Contains(t, text, want)
	}
	var d admin.DeadLetter
	require.NoError(t, json.Unmarshal([]byte(p.ok(t, "dead-letters", "show", id, "--output", "json")), &d))
	require.Equal(t, admin.DataJSON, d.Event.DataEncoding)
	require.Contains(t, string(d.Event.Data), "12345678901234567890")

	got := shell{}.run(t, "dead-letters", "show", "999", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "not found")
}

func TestDeadLettersRedrive(t *testing.T) {
	p := withDeadLetters(t, `1`, `2`, `3`, `4`)
	ids := p.list(t)
	id := func(i int) string { return fmt.Sprint(ids[i].ID) }

	require.Equal(t, "1 dead letter sent back\n", p.ok(t, "dead-letters", "redrive", id(0), id(0)))
	require.Len(t, p.list(t), 3)
	got := shell{}.run(t, "dead-letters", "redrive", id(0), id(1), "--output", "json", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.JSONEq(t, `{"redriven":[`+id(1)+`]}`, got.stdout)
	require.Contains(t, got.stderr, "not among the dead letters of bucket pubsub: "+id(0))

	require.Equal(t, "0 dead letters sent back\n", p.ok(t, "dead-letters", "redrive", "--all", "--topic", "other"))
	require.Equal(t, "2 dead letters sent back\n", p.ok(t, "dead-letters", "redrive", "--all", "--topic", "orders"))
	require.Empty(t, p.list(t))
	require.Equal(t, "[]\n", p.ok(t, "dead-letters", "list", "--output", "json"))
	require.Contains(t, p.ok(t, "topics", "--output", "json"), `"dead": 0`)
}

func TestDeadLettersAreRedrivenAndPurgedAtARate(t *testing.T) {
	for _, command := range []string{"redrive", "purge --yes"} {
		t.Run(command, func(t *testing.T) { atARate(t, strings.Fields(command)...) })
	}
}

func atARate(t *testing.T, command ...string) {
	p := withDeadLetters(t, `1`, `2`, `3`)
	clock := clockwork.NewFakeClock()
	done := make(chan result, 1)
	go func() {
		done <- shell{clock: clock}.run(t, append(append([]string{"dead-letters"}, command...), "--all", "--rate", "30/m", "--data-dir", p.data)...)
	}()
	for left := 2; left > 0; left-- {
		require.NoError(t, clock.BlockUntilContext(t.Context(), 1))
		require.Len(t, p.list(t), left)
		clock.Advance(2*time.Second - 1)
		require.NoError(t, clock.BlockUntilContext(t.Context(), 1))
		require.Len(t, p.list(t), left, "not a moment sooner")
		clock.Advance(1)
	}
	got := <-done
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Empty(t, p.list(t))
}

func TestDeadLettersPurge(t *testing.T) {
	p := withDeadLetters(t, `1`, `2`, `3`)
	id := fmt.Sprint(p.list(t)[0].ID)

	got := shell{}.run(t, "dead-letters", "purge", "--all", "--data-dir", p.data)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "Remove 3 dead letters for good? There is no terminal to ask on: add --yes")
	for _, answer := range []string{"n\n", "\n", "yesterday\n"} {
		got = shell{typed: answer}.run(t, "dead-letters", "purge", "--all", "--data-dir", p.data)
		require.Equal(t, exitFailure, got.code)
		require.Contains(t, got.stderr, "Remove 3 dead letters for good? [y/N] ")
		require.Contains(t, got.stderr, "nothing was changed")
	}
	require.Len(t, p.list(t), 3)

	got = shell{typed: "y\n"}.run(t, "dead-letters", "purge", id, "--data-dir", p.data)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "1 dead letter removed\n", got.stdout)
	got = shell{}.run(t, "dead-letters", "purge", id, "--yes", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "1 of the 1 IDs were not among the dead letters")
	require.JSONEq(t, `{"purged":2}`, p.ok(t, "dead-letters", "purge", "--all", "--yes", "--output", "json"))
	require.Empty(t, p.list(t))
	require.Equal(t, "0 dead letters removed\n", p.ok(t, "dead-letters", "purge", "--all"), "there is nothing to ask about")
}

func TestTopics(t *testing.T) {
	p := withDeadLetters(t, `1`, `2`)
	table := strings.Split(strings.TrimSpace(p.ok(t, "topics")), "\n")
	require.Len(t, table, 5)
	require.Equal(t, []string{"TOPIC", "STORED", "DELAYED", "SIZE", "OLDEST", "DUPLICATES"}, strings.Fields(table[0]))
	require.Equal(t, []string{"orders", "0", "0", "0", "B", "-", "0"}, strings.Fields(table[1]))
	require.Equal(t, []string{"TOPIC", "GROUP", "WAITING", "IN", "FLIGHT", "RETRYING", "OLDEST", "DEAD", "EXPIRED", "STREAMS"}, strings.Fields(table[3]))
	require.Equal(t, []string{"orders", "app", "0", "0", "0", "-", "2", "0", "0"}, strings.Fields(table[4]))

	var topics []admin.TopicStats
	require.NoError(t, json.Unmarshal([]byte(p.ok(t, "topics", "--output", "json")), &topics))
	require.Equal(t, "orders", topics[0].Topic)
	require.EqualValues(t, 2, topics[0].Groups[0].Dead)

	got := shell{typed: "n\n"}.run(t, "topics", "remove-group", "orders", "app", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `Remove group "app" of topic "orders"`)
	require.Len(t, p.list(t), 2)
	require.Equal(t, "group \"app\" of topic \"orders\" removed\n", p.ok(t, "topics", "remove-group", "orders", "app", "--yes"))
	require.Empty(t, p.list(t))
	got = shell{}.run(t, "topics", "remove-group", "orders", "app", "--yes", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, `topic "orders" has no group "app": there is none`)
}

// spoil damages the dead letter of that id in the file of a process that does not run.
func (f folders) spoil(t *testing.T, id uint64) {
	t.Helper()
	db, err := boltdb.Open(t.Context(), databases.FilePath(f.data, databases.DefaultDatabase), boltdb.Options{})
	require.NoError(t, err)
	namespace := boltdb.NewNamespace(boltdb.KindPubSub, databases.DefaultPubSubBucket)
	require.NoError(t, db.Update(t.Context(), func(tx *boltdb.Tx) error {
		dead := namespace.In(tx).Bucket([]byte("dead"))
		key := binary.BigEndian.AppendUint64(nil, id)
		return boltdb.Dirty(dead.Put(key, append([]byte{99}, dead.Get(key)[1:]...)))
	}))
	require.NoError(t, db.Close())
}

func TestADeadLetterThatCannotBeReadIsShownAndPurgedButNotRedriven(t *testing.T) {
	p := withDeadLetters(t, `1`, `2`, `3`)
	letters := p.list(t)
	p.stop(t)
	p.spoil(t, letters[1].ID)
	p = start(t, p.folders)
	id, whole := fmt.Sprint(letters[1].ID), fmt.Sprint(letters[0].ID)

	p.ok(t, "topics")
	require.Contains(t, p.ok(t, "dead-letters", "list"), "unreadable")
	listed := p.list(t)
	require.Len(t, listed, 3)
	require.Equal(t, pubsub.ReasonUnreadable, listed[1].Reason)
	require.Contains(t, listed[1].LastError, "it has version 99")
	raw, err := listed[1].Event.Payload()
	require.NoError(t, err)
	require.Equal(t, byte(99), raw[0])
	require.Contains(t, string(raw), "cannot book", "what is stored is there to be looked at")
	shown := p.ok(t, "dead-letters", "show", id)
	require.Contains(t, shown, "reason         unreadable\n")
	require.Contains(t, shown, "it has version 99")

	got := shell{}.run(t, "dead-letters", "redrive", id, whole, "--output", "json", "--data-dir", p.data)
	require.Equal(t, exitFailure, got.code)
	require.JSONEq(t, `{"redriven":[`+whole+`],"unreadable":[`+id+`]}`, got.stdout)
	require.Contains(t, got.stderr, "cannot be redriven, as what is stored of the event cannot be read: "+id+": allowed: show and purge")
	got = shell{}.run(t, "dead-letters", "redrive", "--all", "--data-dir", p.data)
	require.Equal(t, exitOK, got.code)
	require.Equal(t, "1 dead letter sent back\n", got.stdout)
	require.Contains(t, got.stderr, "skipped: cannot be redriven")
	require.Contains(t, got.stderr, id)
	require.Equal(t, "1 dead letter removed\n", p.ok(t, "dead-letters", "purge", id, "--yes"))
	require.Empty(t, p.list(t))
}
