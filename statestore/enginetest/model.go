package enginetest

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/internal/instant"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// model is the store as its documentation has it, in maps.
type model struct {
	items map[string]modelItem
	marks map[string]time.Time
	// etags holds every ETag that was ever seen, in the order of their coming.
	etags []string
}

type modelItem struct {
	value, contentType, etag string // etag "new": not seen yet
	end                      time.Time
}

func (m *model) live(key string, now time.Time) (modelItem, bool) {
	item, ok := m.items[key]
	return item, ok && !instant.Reached(item.end, now)
}

func (m *model) apply(t *statestore.Transaction, now time.Time) (conflict bool) {
	id := t.IdempotencyKey
	if end, ok := m.marks[id]; id != "" && ok && now.Before(end) {
		return false
	}
	for _, w := range t.Writes {
		item, ok := m.live(w.Key, now)
		if w.ETag != "" && (!ok || item.etag != w.ETag) || w.ETag == "" && w.FirstWrite && ok {
			return true
		}
	}
	for _, w := range t.Writes {
		delete(m.items, w.Key)
		if w.Op == statestore.OpSet {
			item := modelItem{value: string(w.Value), contentType: w.ContentType, etag: "new"}
			if w.TTL > 0 {
				item.end = now.Add(w.TTL)
			}
			m.items[w.Key] = item
		}
	}
	if id != "" {
		m.marks[id] = now.Add(t.IdempotencyWindow)
	}
	return false
}

// Model holds the engine to a model of what a store promises, in random histories.
func Model(t *testing.T, newPlace func() Place) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRig(t, newPlace())
		defer func() { r.close(t) }()
		m := &model{items: map[string]modelItem{}, marks: map[string]time.Time{}}

		keys := []string{"a", "b", "bb", "c\x00", "é"}
		ids := []string{"", "", "id1", "id2"}
		seconds := func(t *rapid.T, label string) time.Duration {
			return time.Duration(rapid.IntRange(0, 4).Draw(t, label)) * time.Second
		}
		write := func(t *rapid.T) statestore.Write {
			w := statestore.Write{Op: statestore.OpSet, Key: rapid.SampledFrom(keys).Draw(t, "key")}
			etags := []string{"", "", "", "bad-etag", "0"}
			if item, ok := m.items[w.Key]; ok {
				etags = append(etags, item.etag, item.etag, item.etag)
			}
			etags = append(etags, m.etags[max(0, len(m.etags)-3):]...)
			w.ETag = etags[rapid.IntRange(0, len(etags)-1).Draw(t, "etag")]
			w.FirstWrite = rapid.IntRange(0, 3).Draw(t, "firstWrite") == 0
			if rapid.IntRange(0, 2).Draw(t, "op") == 0 {
				w.Op, w.FirstWrite = statestore.OpDelete, false
				return w
			}
			w.Value = rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "value")
			w.ContentType = rapid.SampledFrom([]string{"", "application/json"}).Draw(t, "contentType")
			w.TTL = seconds(t, "ttl")
			return w
		}
		transaction := func(t *rapid.T) statestore.Transaction {
			return statestore.Transaction{
				Writes:            rapid.SliceOfN(rapid.Custom(write), 1, 6).Draw(t, "writes"),
				IdempotencyKey:    rapid.SampledFrom(ids).Draw(t, "id"),
				IdempotencyWindow: time.Second + seconds(t, "window"),
			}
		}
		check := func(t *rapid.T, conflict bool, err error) {
			if conflict {
				var mismatch *statestore.ETagMismatchError
				require.True(t, errors.As(err, &mismatch), "%v", err)
				return
			}
			require.NoError(t, err)
		}

		t.Repeat(map[string]func(*rapid.T){
			"each": func(t *rapid.T) {
				transactions := rapid.SliceOfN(rapid.Custom(transaction), 1, 4).Draw(t, "transactions")
				errs := r.store.ApplyEach(ctx, transactions)
				require.Len(t, errs, len(transactions))
				for i := range transactions {
					check(t, m.apply(&transactions[i], r.clock.Now()), errs[i])
				}
			},
			"time": func(t *rapid.T) { r.clock.Advance(seconds(t, "step") / 2) },
			"sweep": func(t *rapid.T) {
				limit := rapid.IntRange(1, 3).Draw(t, "limit")
				SweepAll(t, r.engine, r.clock.Now(), limit)
				disk := map[byte]int{}
				for key := range m.items {
					if item, ok := m.live(key, r.clock.Now()); ok {
						disk['v']++
						if !item.end.IsZero() {
							disk['e']++
						}
					}
				}
				for _, end := range m.marks {
					if r.clock.Now().Before(end) {
						disk['i']++
						disk['x']++
					}
				}
				if count := r.place.Count(t); count != nil {
					require.Equal(t, disk, count)
				}
			},
			"reopen": func(t *rapid.T) {
				r.close(t)
				r.open(t)
			},
			"": func(t *rapid.T) {
				items, err := r.store.GetMany(ctx, keys, 1<<20)
				require.NoError(t, err)
				for i, item := range items {
					want, ok := m.live(keys[i], r.clock.Now())
					require.Equal(t, ok, item.Found, "key %q", keys[i])
					require.NoError(t, item.Err)
					require.Equal(t, item, Get(t, r.store, keys[i]))
					if !ok {
						require.Equal(t, statestore.Item{Key: keys[i]}, item)
						continue
					}
					require.Equal(t, want.value, string(item.Value))
					require.Equal(t, want.contentType, item.ContentType)
					require.True(t, want.end.Equal(item.Expires), "end %s, want %s", item.Expires, want.end)
					if want.etag == "new" {
						require.NotContains(t, m.etags, item.ETag, "an etag was given out twice")
						want.etag = item.ETag
						m.etags = append(m.etags, item.ETag)
						m.items[keys[i]] = want
					}
					require.Equal(t, want.etag, item.ETag)
				}
			},
		})
	})
}
