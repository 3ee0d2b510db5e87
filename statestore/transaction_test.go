package statestore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

func TestTransactionKeepsOrder(t *testing.T) {
	s, _ := newStore(t)
	enginetest.Apply(t, s, enginetest.Set("old", "v"))
	ttl := enginetest.Set("d", "2")
	ttl.TTL = time.Minute
	enginetest.Apply(t, s,
		enginetest.Set("a", "1"), enginetest.Delete("a"),
		enginetest.Delete("b"), enginetest.Set("b", "1"),
		enginetest.Set("c", "1"), enginetest.Set("c", "2"), enginetest.Delete("c"), enginetest.Set("c", "3"),
		ttl, enginetest.Set("d", "3"),
		enginetest.Delete("old"), enginetest.Set("old", "new"), enginetest.Delete("old"))
	require.False(t, enginetest.Get(t, s, "a").Found)
	require.Equal(t, "1", string(enginetest.Get(t, s, "b").Value))
	require.Equal(t, "3", string(enginetest.Get(t, s, "c").Value))
	require.Zero(t, enginetest.Get(t, s, "d").Expires)
	require.False(t, enginetest.Get(t, s, "old").Found)
}

func TestTransactionChecksFirst(t *testing.T) {
	s, _ := newStore(t)
	enginetest.Apply(t, s, enginetest.Set("k", "1"))
	etag := enginetest.Get(t, s, "k").ETag

	// Both name the version before the transaction, and both hold although the first write ends that version.
	one, two := enginetest.Set("k", "2"), enginetest.Set("k", "3")
	one.ETag, two.ETag = etag, etag
	enginetest.Apply(t, s, one, two)
	require.Equal(t, "3", string(enginetest.Get(t, s, "k").Value))

	// The delete before it does not make room for a first-write.
	first := enginetest.Set("k", "4")
	first.FirstWrite = true
	err := s.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{enginetest.Set("new", "v"), enginetest.Delete("k"), first}})
	require.ErrorIs(t, err, statestore.ErrETagMismatch)
	require.Equal(t, "3", string(enginetest.Get(t, s, "k").Value))
	require.False(t, enginetest.Get(t, s, "new").Found)
}

func TestTransactionAtFullSize(t *testing.T) {
	s, _ := newStore(t)
	var writes []statestore.Write
	for i := range statestore.MaxTransactionSize / 2 {
		key := fmt.Sprintf("key-%04d", i)
		writes = append(writes, enginetest.Set(key, "v"), enginetest.Delete(key))
		if i%2 == 0 {
			writes[len(writes)-2], writes[len(writes)-1] = writes[len(writes)-1], writes[len(writes)-2]
		}
	}
	stale := writes[len(writes)-1]
	stale.ETag = "never"
	failing := append(append([]statestore.Write(nil), writes[:len(writes)-1]...), stale)
	require.ErrorIs(t, s.Apply(ctx, statestore.Transaction{Writes: failing}), statestore.ErrETagMismatch)
	require.False(t, enginetest.Get(t, s, "key-0000").Found)

	enginetest.Apply(t, s, writes...)
	for i := range statestore.MaxTransactionSize / 2 {
		require.Equal(t, i%2 == 0, enginetest.Get(t, s, fmt.Sprintf("key-%04d", i)).Found, i)
	}

	err := s.Apply(ctx, statestore.Transaction{Writes: append(writes, enginetest.Set("one", "too many"))})
	require.ErrorIs(t, err, statestore.ErrInvalidArgument)
	require.ErrorContains(t, err, "at most 50000 in one transaction")
}

func TestETagsAreNeverGivenOutTwice(t *testing.T) {
	s, _ := newStore(t)
	seen := map[string]bool{}
	for range 3 {
		enginetest.Apply(t, s, enginetest.Set("a", "same"), enginetest.Set("b", "same"))
		for _, key := range []string{"a", "b"} {
			etag := enginetest.Get(t, s, key).ETag
			require.False(t, seen[etag], etag)
			seen[etag] = true
		}
		enginetest.Apply(t, s, enginetest.Delete("a"), enginetest.Delete("b"))
	}
}

func TestIdempotencyKeyOfATransaction(t *testing.T) {
	s, clock := newStore(t)
	once := func(writes ...statestore.Write) error {
		return s.Apply(ctx, statestore.Transaction{Writes: writes, IdempotencyKey: "event-1", IdempotencyWindow: time.Minute})
	}
	stale := enginetest.Set("k", "0")
	stale.ETag = "1000"
	require.ErrorIs(t, once(stale), statestore.ErrETagMismatch, "and the key is not used up")
	require.NoError(t, once(), "nor here")

	require.NoError(t, once(enginetest.Set("k", "1")))
	first := enginetest.Get(t, s, "k")
	clock.Advance(time.Minute - 1)
	require.NoError(t, once(enginetest.Set("k", "2"), enginetest.Set("other", "2")))
	require.NoError(t, once(stale), "a repeat succeeds before any etag is looked at")
	require.Equal(t, first, enginetest.Get(t, s, "k"))
	require.False(t, enginetest.Get(t, s, "other").Found)

	clock.Advance(1)
	require.NoError(t, once(enginetest.Set("k", "3")))
	require.Equal(t, "3", string(enginetest.Get(t, s, "k").Value))
	clock.Advance(time.Minute - 1)
	require.NoError(t, once(enginetest.Set("k", "4")))
	require.Equal(t, "3", string(enginetest.Get(t, s, "k").Value), "the second use began a window of its own")
}

func TestIdempotencyKeysOfManyTransactions(t *testing.T) {
	s, clock := newStore(t)
	once := func(id string, w statestore.Write) statestore.Transaction {
		return statestore.Transaction{Writes: []statestore.Write{w}, IdempotencyKey: id}
	}
	again := once("event-1", enginetest.Delete("k"))
	stale := enginetest.Set("k2", "1")
	stale.ETag = "1000"

	errs := s.ApplyEach(ctx, []statestore.Transaction{once("event-1", enginetest.Set("k", "1")), again, once("event-2", stale), once("event-2", enginetest.Set("k2", "2"))})
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	require.ErrorIs(t, errs[2], statestore.ErrETagMismatch)
	require.NoError(t, errs[3])
	require.Equal(t, "1", string(enginetest.Get(t, s, "k").Value))
	require.Equal(t, "2", string(enginetest.Get(t, s, "k2").Value))

	clock.Advance(statestore.DefaultIdempotencyWindow - 1)
	require.NoError(t, s.Apply(ctx, again))
	require.True(t, enginetest.Get(t, s, "k").Found)
	clock.Advance(1)
	require.NoError(t, s.Apply(ctx, again))
	require.False(t, enginetest.Get(t, s, "k").Found)
}
