package databases

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	pubsubengine "github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	stateengine "github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
)

// Whatever the engines have written: what a killed process leaves, its file and its log, recovers to the same contents.
func TestAKilledProcessLeavesTheSameContents(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		m := &twoEngines{
			T:   r,
			dir: filepath.Join(dir, fmt.Sprint(runs)),
			now: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC),
		}
		require.NoError(r, os.Mkdir(m.dir, 0o700))
		m.open(m.openFile())
		_, err := m.events.OpenGroup(r.Context(), "a.>", "shop", pubsub.DeliverAll, pubsub.NameLimits{})
		require.NoError(r, err)
		defer func() { require.NoError(r, m.db.Close()) }()
		actions := map[string]func(*rapid.T){}
		for name, action := range map[string]func(){
			"apply":      m.apply,
			"build":      m.buildIndexes,
			"sweepState": m.sweepState,
			"append":     m.append,
			"openGroup":  m.openGroup,
			"settle":     m.settle,
			"settle2":    m.settle,
			"settle3":    m.settle,
			"redrive":    m.redrive,
			"purge":      m.purge,
			"promote":    m.promote,
			"sweep":      m.sweep,
			"remove":     m.removeGroup,
			"time":       func() { m.now = m.now.Add(m.seconds("step")) },
			"checkpoint": m.checkpoint,
			"close":      m.reopen,
			"kill":       m.kill,
		} {
			actions[name] = func(r *rapid.T) { m.T = r; action() }
		}
		r.Repeat(actions)
		m.T = r
		m.kill()
		require.NoError(r, m.db.Close())
		require.Empty(r, check(t, m.path()))
	})
}

// twoEngines is a database file with both engines on it.
type twoEngines struct {
	*rapid.T
	dir    string
	copies int
	db     *boltdb.DB
	state  statestore.Engine
	events *pubsubengine.Engine
	now    time.Time
}

func (m *twoEngines) path() string { return filepath.Join(m.dir, fmt.Sprintf("%d.db", m.copies)) }

func (m *twoEngines) openFile() *boltdb.DB {
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := boltdb.Open(m.Context(), m.path(), boltdb.Options{DeferredDelay: -1, Logger: quiet})
	require.NoError(m, err)
	return db
}

func (m *twoEngines) open(db *boltdb.DB) {
	var err error
	m.db = db
	m.state, err = stateengine.New(m.db, "state")
	require.NoError(m, err)
	m.events, err = pubsubengine.New(m.Context(), m.db, "pubsub")
	require.NoError(m, err)
}

func (m *twoEngines) reopen() {
	require.NoError(m, m.db.Close())
	m.open(m.openFile())
}

// kill goes on with what a process that was killed now would leave. The log is copied first: while nobody writes, a
// checkpoint that begins or ends in between changes nothing that the log which was copied needs.
func (m *twoEngines) kill() {
	m.set("killed", nil) // there is a log from the first write on
	want := contents(m, m.db)
	killed, from := m.db, m.path()
	m.copies++
	for _, suffix := range []string{"-wal", ""} {
		copyFile(m, from+suffix, m.path()+suffix)
	}
	recovered := m.openFile()
	require.EqualValues(m, 1, recovered.Stats().Recoveries)
	require.Equal(m, want, contents(m, recovered))
	require.NoError(m, killed.Close())
	require.NoError(m, os.Remove(from))
	m.open(recovered)
}

// copyFile leaves out what is zero: much of a log is holes.
func copyFile(t require.TestingT, from, to string) {
	in, err := os.Open(from)
	require.NoError(t, err)
	defer in.Close()
	out, err := os.Create(to)
	require.NoError(t, err)
	defer out.Close()
	info, err := in.Stat()
	require.NoError(t, err)
	require.NoError(t, out.Truncate(info.Size()))
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < info.Size(); at += int64(len(block)) {
		n, err := in.ReadAt(block, at)
		if err != io.EOF {
			require.NoError(t, err)
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			_, err = out.WriteAt(block[:n], at)
			require.NoError(t, err)
		}
	}
}

// contents returns every key, and the counter of every bucket, by their places in the file. Up to which record of the log the file
// holds everything is left out: a checkpoint may be under way.
func contents(t require.TestingT, db *boltdb.DB) map[string]string {
	all := map[string]string{}
	var walk func(place string, b *boltdb.Bucket) error
	walk = func(place string, b *boltdb.Bucket) error {
		all[place] = fmt.Sprint("counter ", b.Sequence())
		return b.ForEach(func(k, v []byte) error {
			place := fmt.Sprintf("%s/%q", place, k)
			if v == nil {
				return walk(place, b.Bucket(k))
			}
			if place != `format/"log"` {
				all[place] = string(v)
			}
			return nil
		})
	}
	require.NoError(t, db.View(func(tx *boltdb.Tx) error {
		return tx.ForEach(func(name []byte, b *boltdb.Bucket) error { return walk(string(name), b) })
	}))
	return all
}

func (m *twoEngines) number(most int, label string) int {
	return rapid.IntRange(0, most).Draw(m.T, label)
}

func (m *twoEngines) seconds(label string) time.Duration {
	return time.Duration(m.number(4, label)) * time.Second
}

func (m *twoEngines) set(key string, value []byte) {
	m.transact(statestore.Transaction{Writes: []statestore.Write{{Op: statestore.OpSet, Key: key, Value: value}}})
}

func (m *twoEngines) transact(transactions ...statestore.Transaction) {
	errs, err := m.state.Apply(m.Context(), transactions, func() time.Time { return m.now })
	require.NoError(m, err)
	for _, err := range errs {
		if err != nil {
			require.ErrorIs(m, err, statestore.ErrETagMismatch)
		}
	}
}

func (m *twoEngines) apply() {
	transactions := make([]statestore.Transaction, 1+m.number(2, "transactions"))
	for i := range transactions {
		transactions[i].IdempotencyKey = rapid.SampledFrom([]string{"", "", "id1", "id2"}).Draw(m.T, "id")
		transactions[i].IdempotencyWindow = time.Second + m.seconds("window")
		for range 1 + m.number(3, "writes") {
			w := statestore.Write{Op: statestore.OpDelete, Key: fmt.Sprint("key-", m.number(20, "key"))}
			if m.number(2, "op") > 0 {
				w.Op, w.FirstWrite, w.TTL = statestore.OpSet, m.number(3, "first") == 0, m.seconds("ttl")
				w.ContentType = "application/json"
				w.Value = fmt.Appendf(nil, `{"n":%d,"text":%q}`, m.number(9, "n"), bytes.Repeat([]byte("x"), m.number(5000, "length")))
			}
			transactions[i].Writes = append(transactions[i].Writes, w)
		}
	}
	m.transact(transactions...)
}

func (m *twoEngines) buildIndexes() {
	paths := rapid.SampledFrom([][]string{{"n"}, {"n", "text"}, {"none"}}).Draw(m.T, "paths")
	_, err := m.state.BuildIndexes(m.Context(), paths, m.now.Add(m.seconds("until")), 1+m.number(10, "limit"))
	require.NoError(m, err)
}

func (m *twoEngines) sweepState() {
	_, _, err := m.state.Sweep(m.Context(), m.now, 1+m.number(10, "limit"))
	require.NoError(m, err)
}

// checkpoint writes so much that a checkpoint begins.
func (m *twoEngines) checkpoint() {
	if m.number(15, "checkpoint") == 0 {
		m.set("large", make([]byte, 9<<20))
	}
}

func (m *twoEngines) topic() string {
	return rapid.SampledFrom([]string{"a.b", "a.c"}).Draw(m.T, "topic")
}
func (m *twoEngines) group() string {
	return rapid.SampledFrom([]string{"shop", "mail"}).Draw(m.T, "group")
}

func (m *twoEngines) append() {
	entries := make([]pubsub.Entry, 1+m.number(4, "entries"))
	for i := range entries {
		e := &entries[i].Event
		e.PublishTime, e.Data = m.now, make([]byte, m.number(3000, "length"))
		e.PartitionKey = rapid.SampledFrom([]string{"", "p"}).Draw(m.T, "partition")
		if wait := m.seconds("wait"); wait > 0 && m.number(1, "delayed") == 0 {
			e.DeliverAt = m.now.Add(wait)
		}
		if m.number(1, "dedup") == 0 {
			entries[i].DedupKey = []byte{byte(m.number(9, "id"))}
			entries[i].DedupWindow = time.Second + m.seconds("window")
		}
	}
	limits := pubsub.TopicLimits{MaxAge: 5 * m.seconds("maxAge"), MaxBytes: rapid.SampledFrom([]int64{0, 50_000}).Draw(m.T, "maxBytes")}
	opts := pubsub.AppendOptions{TopicLimits: limits, AllOrNothing: m.number(1, "all") == 0}
	_, err := m.events.Append(m.Context(), m.topic(), entries, opts, m.now)
	require.NoError(m, err)
}

func (m *twoEngines) openGroup() {
	topic := rapid.SampledFrom([]string{"a.b", "a.c", "a.>"}).Draw(m.T, "topic")
	policy := rapid.SampledFrom([]pubsub.DeliverPolicy{pubsub.DeliverAll, pubsub.DeliverNew}).Draw(m.T, "policy")
	_, err := m.events.OpenGroup(m.Context(), topic, m.group(), policy, pubsub.NameLimits{})
	require.NoError(m, err)
}

// settle ends deliveries of events from the log, of retries and of redriven events.
func (m *twoEngines) settle() {
	topic, group := m.topic(), m.group()
	limit := 1 + m.number(5, "limit")
	var settlements []pubsub.Settlement
	end := func(sequence uint64, key *pubsub.RetryKey, h pubsub.History) {
		s := pubsub.Settlement{
			Outcome:  rapid.SampledFrom([]pubsub.Outcome{pubsub.Acked, pubsub.Retried, pubsub.Dead, pubsub.Expired}).Draw(m.T, "outcome"),
			Sequence: sequence, Retry: key, History: h, Due: m.now.Add(m.seconds("due")), Reason: pubsub.ReasonMaxDeliver, At: m.now,
		}
		s.History.Deliveries++
		s.History.Attempts = append(s.History.Attempts, pubsub.Attempt{At: m.now, Error: fmt.Sprint("no ", s.History.Deliveries)})
		settlements = append(settlements, s)
	}
	switch m.number(2, "from") {
	case 0:
		events, _, err := m.events.ReadLog(m.Context(), topic, group, 0, limit, 1<<20)
		require.NoError(m, err)
		for _, e := range events {
			if m.number(3, "skipped") > 0 {
				end(e.Sequence, nil, pubsub.History{})
			}
		}
	case 1:
		retries, _, err := m.events.ReadRetries(m.Context(), topic, group, m.now, none, limit, 1<<20)
		require.NoError(m, err)
		for _, r := range retries {
			end(r.Event.Sequence, &r.Key, r.History)
		}
	default:
		redriven, err := m.events.ReadRedriven(m.Context(), topic, group, none, limit, 1<<20)
		require.NoError(m, err)
		for _, r := range redriven {
			end(r.Event.Sequence, &r.Key, r.History)
		}
	}
	if len(settlements) == 0 {
		return
	}
	_, err := m.events.Settle(m.Context(), topic, group, settlements)
	require.NoError(m, err)
}

func none(pubsub.RetryKey) bool { return false }

// someDead returns the ids of the first dead letters.
func (m *twoEngines) someDead() (ids []uint64) {
	dead, _, err := m.events.DeadLetters(m.Context(), pubsub.DeadLetterFilter{}, 0)
	require.NoError(m, err)
	for _, d := range dead[:min(len(dead), 1+m.number(3, "dead"))] {
		ids = append(ids, d.ID)
	}
	return ids
}

func (m *twoEngines) redrive() {
	_, err := m.events.Redrive(m.Context(), m.someDead())
	require.NoError(m, err)
}

func (m *twoEngines) purge() {
	_, err := m.events.Purge(m.Context(), m.someDead())
	require.NoError(m, err)
}

func (m *twoEngines) promote() {
	_, _, err := m.events.Promote(m.Context(), m.now, 1+m.number(5, "limit"))
	require.NoError(m, err)
}

func (m *twoEngines) sweep() {
	limit := 1 + m.number(5, "limit")
	_, err := m.events.Sweep(m.Context(), m.now, limit)
	require.NoError(m, err)
	_, _, err = m.events.BuryAged(m.Context(), m.now, limit, func(string, string) bool { return true })
	require.NoError(m, err)
}

func (m *twoEngines) removeGroup() {
	if m.number(3, "remove") > 0 {
		return
	}
	if err := m.events.RemoveGroup(m.Context(), m.topic(), m.group()); err != nil {
		require.ErrorIs(m, err, pubsub.ErrNotFound)
	}
}
