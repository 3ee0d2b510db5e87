package statestore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ctx   = context.Background()
	epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
)

func newStore(t testing.TB) (*statestore.Store, *clockwork.FakeClock) {
	db, err := boltdb.Open(ctx, filepath.Join(t.TempDir(), "test.db"), boltdb.Options{})
	require.NoError(t, err)
	engine, err := boltengine.New(db, "state")
	require.NoError(t, err)
	clock := clockwork.NewFakeClockAt(epoch)
	store, err := statestore.New(engine, statestore.Options{Clock: clock})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, store.Close(ctx))
		require.NoError(t, db.Close())
	})
	return store, clock
}

func TestConditions(t *testing.T) {
	const (
		now, old, none, bad, zero = "now", "old", "", "bad-etag", "0"
		absent, present, over     = "absent", "present", "over" // over: set, and its time has come
	)
	for _, c := range []struct {
		stored     string
		op         statestore.Op
		etag       string
		firstWrite bool
		conflict   bool
	}{
		{absent, statestore.OpSet, none, false, false},
		{absent, statestore.OpSet, none, true, false},
		{absent, statestore.OpSet, bad, false, true},
		{absent, statestore.OpSet, zero, false, true},
		{absent, statestore.OpSet, old, true, true},
		{absent, statestore.OpDelete, none, false, false},
		{absent, statestore.OpDelete, old, false, true},
		{present, statestore.OpSet, none, false, false},
		{present, statestore.OpSet, none, true, true},
		{present, statestore.OpSet, now, false, false},
		{present, statestore.OpSet, now, true, false},
		{present, statestore.OpSet, old, false, true},
		{present, statestore.OpSet, old, true, true},
		{present, statestore.OpSet, bad, false, true},
		{present, statestore.OpDelete, none, false, false},
		{present, statestore.OpDelete, none, true, false},
		{present, statestore.OpDelete, now, false, false},
		{present, statestore.OpDelete, old, false, true},
		{present, statestore.OpDelete, bad, false, true},
		{over, statestore.OpSet, none, true, false},
		{over, statestore.OpSet, now, false, true},
		{over, statestore.OpDelete, none, false, false},
		{over, statestore.OpDelete, now, false, true},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			s, clock := newStore(t)
			etags := map[string]string{none: none, bad: bad, zero: zero}
			enginetest.Apply(t, s, enginetest.Set("k", "1"))
			etags[old] = enginetest.Get(t, s, "k").ETag
			second := enginetest.Set("k", "2")
			second.TTL = time.Second
			enginetest.Apply(t, s, second)
			etags[now] = enginetest.Get(t, s, "k").ETag
			switch c.stored {
			case absent:
				enginetest.Apply(t, s, enginetest.Delete("k"))
			case over:
				clock.Advance(time.Second)
			}
			before := enginetest.Get(t, s, "k")

			w := statestore.Write{Op: c.op, Key: "k", ETag: etags[c.etag], FirstWrite: c.firstWrite, Value: []byte("3")}
			err := s.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{w}})
			after := enginetest.Get(t, s, "k")
			if c.conflict {
				require.ErrorIs(t, err, statestore.ErrETagMismatch)
				var mismatch *statestore.ETagMismatchError
				require.ErrorAs(t, err, &mismatch)
				require.Equal(t, statestore.ETagMismatchError{Key: "k", ETag: w.ETag, Stored: before.ETag}, *mismatch)
				require.ErrorContains(t, err, `key "k"`)
				require.Equal(t, before, after)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.op == statestore.OpSet, after.Found)
			if after.Found {
				require.Equal(t, "3", string(after.Value))
				require.NotContains(t, []string{etags[old], etags[now]}, after.ETag)
			}
		})
	}
}

func TestBadArgumentsChangeNothing(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct {
		change func(w *statestore.Write)
		is     error
		text   string
	}{
		"no key":                       {func(w *statestore.Write) { w.Key = "" }, statestore.ErrInvalidArgument, `invalid key "": allowed: 1 to 16384 bytes`},
		"long key":                     {func(w *statestore.Write) { w.Key = long }, statestore.ErrInvalidArgument, "(1048576 bytes): allowed: 1 to 16384"},
		"key that no answer can carry": {func(w *statestore.Write) { w.Key = "\xff" }, statestore.ErrInvalidArgument, `key "\xff"`},
		"no operation":                 {func(w *statestore.Write) { w.Op = 0 }, statestore.ErrInvalidArgument, "operation 0"},
		"large value":                  {func(w *statestore.Write) { w.Value = make([]byte, statestore.MaxValueSize+1) }, statestore.ErrTooLarge, "4128769 bytes is too large: at most 4128768"},
		"long content type":            {func(w *statestore.Write) { w.ContentType = long }, statestore.ErrInvalidArgument, "at most 1024 bytes"},
		"bad content type":             {func(w *statestore.Write) { w.ContentType = "\xff" }, statestore.ErrInvalidArgument, `contentType "\xff"`},
		"negative ttl":                 {func(w *statestore.Write) { w.TTL = -time.Second }, statestore.ErrInvalidArgument, "invalid ttl -1s: allowed: 0 to"},
		"endless ttl":                  {func(w *statestore.Write) { w.TTL = statestore.MaxTTL + 1 }, statestore.ErrInvalidArgument, "ttl"},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newStore(t)
			bad := enginetest.Set("bad", "v")
			c.change(&bad)
			each := make([]statestore.Transaction, 3)
			for i, w := range []statestore.Write{enginetest.Set("before", "v"), bad, enginetest.Set("after", "v")} {
				each[i].Writes = []statestore.Write{w}
			}
			errs := s.ApplyEach(ctx, each)
			require.NoError(t, errs[0])
			require.ErrorIs(t, errs[1], c.is)
			require.ErrorContains(t, errs[1], c.text)
			require.Less(t, len(errs[1].Error()), 512, "a long value must not drown the message")
			require.NoError(t, errs[2])
			require.True(t, enginetest.Get(t, s, "after").Found)
			require.False(t, enginetest.Get(t, s, "bad").Found)

			err := s.Apply(ctx, statestore.Transaction{Writes: []statestore.Write{enginetest.Set("other", "v"), bad}})
			require.ErrorIs(t, err, c.is)
			require.ErrorContains(t, err, "operations[1]")
			require.False(t, enginetest.Get(t, s, "other").Found)
		})
	}
}

func TestIdempotencyKeysAreChecked(t *testing.T) {
	s, _ := newStore(t)
	for text, bad := range map[string]statestore.Transaction{
		"idempotencyKey":         {IdempotencyKey: strings.Repeat("x", statestore.MaxIdempotencyKeySize+1)},
		"idempotencyWindow":      {IdempotencyKey: "i", IdempotencyWindow: statestore.MaxTTL + 1},
		"idempotencyWindow -1ns": {IdempotencyKey: "i", IdempotencyWindow: -1},
	} {
		bad.Writes = []statestore.Write{enginetest.Set("k", "v")}
		err := s.Apply(ctx, bad)
		require.ErrorIs(t, err, statestore.ErrInvalidArgument)
		require.ErrorContains(t, err, text)
	}
	require.False(t, enginetest.Get(t, s, "k").Found)
}

func TestGetManyAnswersEachKey(t *testing.T) {
	s, _ := newStore(t)
	w := enginetest.Set("a", "\x00\xff {not json")
	w.ContentType, w.TTL = "application/json", time.Minute
	enginetest.Apply(t, s, w, enginetest.Set("empty", ""))
	items, err := s.GetMany(ctx, []string{"none", "", "a", "empty", "a"}, 1<<20)
	require.NoError(t, err)
	require.Equal(t, statestore.Item{Key: "none"}, items[0])
	require.ErrorIs(t, items[1].Err, statestore.ErrInvalidArgument)
	require.Equal(t, statestore.Item{Key: "a", Found: true, Value: w.Value, ETag: items[2].ETag, ContentType: w.ContentType,
		Expires: epoch.Add(time.Minute)}, items[2])
	require.True(t, items[3].Found)
	require.Empty(t, items[3].Value)
	require.Equal(t, items[2], items[4])
	_, err = s.Get(ctx, "")
	require.ErrorIs(t, err, statestore.ErrInvalidArgument)
}

func TestTTLEndsToTheInstant(t *testing.T) {
	s, clock := newStore(t)
	w := enginetest.Set("k", "v")
	w.TTL = time.Second
	enginetest.Apply(t, s, w, w, enginetest.Set("stays", "v"))
	clock.Advance(time.Second - 1)
	require.True(t, enginetest.Get(t, s, "k").Found)
	clock.Advance(1)
	require.False(t, enginetest.Get(t, s, "k").Found)
	require.True(t, enginetest.Get(t, s, "stays").Found)
}

func TestSetWithoutTTLClearsIt(t *testing.T) {
	s, clock := newStore(t)
	w := enginetest.Set("k", "v")
	w.TTL = time.Second
	enginetest.Apply(t, s, w)
	enginetest.Apply(t, s, enginetest.Set("k", "v"))
	require.Zero(t, enginetest.Get(t, s, "k").Expires)
	clock.Advance(time.Hour)
	require.True(t, enginetest.Get(t, s, "k").Found)
}

func TestGetHeedsItsContext(t *testing.T) {
	s, _ := newStore(t)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err := s.Get(ended, "k")
	require.ErrorIs(t, err, context.Canceled)
}

func TestCloseMayBeCalledAgain(t *testing.T) {
	s, _ := newStore(t)
	require.NoError(t, s.Close(ctx))
	require.NoError(t, s.Close(ctx))
}
