package component

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestMetadataIsLimited(t *testing.T) {
	h := newHouse(t)
	c := h.bus("a", "consumerID", "app")
	s := c.pull(t, "t")
	entries := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprint(i), "")
		}
		return list
	}
	requireInvalid(t, c.publish("t", "x", entries(pubsub.MaxMetadataEntries+1)...),
		`invalid metadata "of 1001 entries and 2894 bytes": allowed: at most 1000 entries and 65536 bytes`)
	requireInvalid(t, c.publish("t", "x", "k", strings.Repeat("v", pubsub.MaxMetadataBytes)),
		`invalid metadata "of 1 entries and 65537 bytes"`)
	require.NoError(t, c.publish("t", "entries", entries(pubsub.MaxMetadataEntries)...))
	require.NoError(t, c.publish("t", "bytes", "k", strings.Repeat("v", pubsub.MaxMetadataBytes-1)))
	for _, want := range []string{"entries", "bytes"} {
		m := s.next()
		require.Equal(t, want, string(m.GetData()))
		s.ack(m.GetId())
	}
}

// spoil damages the one record of a bucket that holds the text, while nobody has the file open, and returns what it is now.
func (h *house) spoil(bucket, text string) (spoiled []byte) {
	h.t.Helper()
	h.atRest(bucket, func(b *boltdb.Bucket) error {
		var key []byte
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if bytes.Contains(v, []byte(text)) {
				require.Nil(h.t, key, "another record of %s", bucket)
				key, spoiled = bytes.Clone(k), bytes.Clone(v)
			}
		}
		require.NotNil(h.t, key, "records of %s", bucket)
		spoiled[0] = 99 // the version
		return b.Put(key, spoiled)
	})
	return spoiled
}

// records counts what a bucket holds.
func (h *house) records(bucket string) (n int) {
	h.t.Helper()
	h.atRest(bucket, func(b *boltdb.Bucket) error {
		return b.ForEach(func(_, _ []byte) error { n++; return nil })
	})
	return n
}

// atRest runs fn on a bucket of the events while nobody has the file open.
func (h *house) atRest(bucket string, fn func(b *boltdb.Bucket) error) {
	h.t.Helper()
	h.stop()
	db, err := boltdb.Open(h.t.Context(), filepath.Join(h.dir, "data", databases.DefaultDatabase+".db"), boltdb.Options{})
	require.NoError(h.t, err)
	namespace := boltdb.NewNamespace(boltdb.KindPubSub, databases.DefaultPubSubBucket)
	require.NoError(h.t, db.Update(h.t.Context(), func(tx *boltdb.Tx) error {
		return boltdb.Dirty(fn(namespace.In(tx).Bucket([]byte(bucket))))
	}))
	require.NoError(h.t, db.Close())
	h.start()
}

// A record of any kind that cannot be decoded becomes a dead letter of each group that was owed its event, and holds up
// nothing else.
func TestARecordThatCannotBeReadHoldsUpNothing(t *testing.T) {
	for name, c := range map[string]struct {
		bucket string
		// prepare leaves a record behind that holds the text "damaged".
		prepare func(t *testing.T, h *house)
		// dead are the topics and groups of its dead letters.
		dead []string
	}{
		"event of the log": {"log", func(t *testing.T, h *house) {
			require.NoError(t, h.bus("c").publish("t", "damaged"))
		}, []string{"t app", "t other"}},
		"delayed event": {"delayed", func(t *testing.T, h *house) {
			require.NoError(t, h.bus("c").publish("t", "damaged", "deliverAfter", "1m"))
		}, []string{"t app", "t other"}},
		"retry": {"retry", func(t *testing.T, h *house) {
			h.fail(t, "damaged", "10")
			require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Retrying == 1 }, patience, time.Millisecond)
		}, []string{"t app"}},
		"redriven event": {"retry", func(t *testing.T, h *house) {
			h.fail(t, "damaged", "1")
			moved, err := h.broker().Redrive(t.Context(), []uint64{h.dead(t, 1)[0].ID})
			require.NoError(t, err)
			require.Len(t, moved, 1)
		}, []string{"t app"}},
		"dead letter": {"dead", func(t *testing.T, h *house) {
			h.fail(t, "damaged", "1")
			h.dead(t, 1)
		}, []string{" "}}, // nobody knows whose it was
	} {
		t.Run(name, func(t *testing.T) {
			clock := clockwork.NewFakeClockAt(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC))
			h := newHouse(t, func(h *house) { h.clock = clock })
			for _, group := range []string{"app", "other"} {
				s := h.bus("c", "consumerID", group).pull(t, "t", "ordered", "true")
				require.Eventually(t, func() bool { return groupStats(t, h, "t", group).Streams == 1 }, patience, time.Millisecond)
				s.cancel()
			}
			c.prepare(t, h)
			spoiled := h.spoil(c.bucket, "damaged")

			clock.Advance(time.Hour)
			streams := map[string]*stream{}
			for _, group := range []string{"app", "other"} {
				streams[group] = h.bus("c", "consumerID", group).pull(t, "t", "ordered", "true")
			}
			dead := h.dead(t, len(c.dead))
			var whose []string
			for _, d := range dead {
				whose = append(whose, d.Event.Topic+" "+d.Group)
				require.Equal(t, pubsub.ReasonUnreadable, d.Reason)
				require.Equal(t, spoiled, d.Event.Data, "it can be looked at")
				require.Contains(t, d.LastError(), "it has version 99")
			}
			require.ElementsMatch(t, c.dead, whose)
			require.NoError(t, h.bus("c").publish("t", "after"))
			for group, s := range streams {
				for data := ""; data != "after"; {
					m := s.next()
					data = string(m.GetData())
					require.Contains(t, []string{"damaged", "after"}, data, "group %s", group)
					s.ack(m.GetId())
				}
			}
			// An acknowledgement on its way when a minute passes at once would have taken too long to arrive.
			for group := range streams {
				require.Eventually(t, func() bool { return groupStats(t, h, "t", group).InFlight == 0 }, patience, time.Millisecond)
			}
			require.Eventually(t, func() bool {
				clock.Advance(time.Minute)
				stats, err := h.broker().Stats(t.Context(), "", "", 0)
				require.NoError(t, err)
				return stats[0].Stored == 0 && stats[0].Delayed == 0 && stats[0].Bytes == 0
			}, patience, time.Millisecond)
			require.NotContains(t, h.log.String(), "level=ERROR")

			moved, err := h.broker().Redrive(t.Context(), []uint64{dead[0].ID})
			require.NoError(t, err)
			require.Empty(t, moved, "it cannot be redriven")
			n, err := h.broker().Purge(t.Context(), []uint64{dead[0].ID})
			require.NoError(t, err)
			require.Equal(t, 1, n)
		})
	}
}

// fail publishes an event and has group app refuse it.
func (h *house) fail(t *testing.T, data, maxDeliver string) {
	t.Helper()
	c := h.bus("c", "consumerID", "app")
	s := c.pull(t, "t", "maxDeliver", maxDeliver)
	require.NoError(t, c.publish("t", data))
	s.nack(s.next().GetId(), "refused")
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").InFlight == 0 }, patience, time.Millisecond)
	s.cancel()
	require.Eventually(t, func() bool { return groupStats(t, h, "t", "app").Streams == 0 }, patience, time.Millisecond)
}

// dead waits for so many dead letters.
func (h *house) dead(t *testing.T, n int) (dead []pubsub.DeadLetter) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		dead, _, err = h.broker().DeadLetters(t.Context(), pubsub.DeadLetterFilter{}, 0)
		require.NoError(t, err)
		return len(dead) == n
	}, patience, time.Millisecond)
	return dead
}
