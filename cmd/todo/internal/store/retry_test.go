package store_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		conflictUntil := func(n int) func(context.Context) error {
			calls = 0
			return func(context.Context) error {
				if calls++; calls < n {
					return store.ErrConflict
				}
				return nil
			}
		}
		require.NoError(t, store.Retry(t.Context(), conflictUntil(5)))
		require.Equal(t, 5, calls)

		start := time.Now()
		require.ErrorIs(t, store.Retry(t.Context(), conflictUntil(1000)), store.ErrConflict)
		require.Equal(t, 12, calls)
		require.Less(t, time.Since(start), 3*time.Second)

		other := errors.New("other")
		calls = 0
		require.ErrorIs(t, store.Retry(t.Context(), func(context.Context) error { calls++; return other }), other)
		require.Equal(t, 1, calls)

		ended, cancel := context.WithCancel(t.Context())
		err := store.Retry(ended, func(context.Context) error { cancel(); return store.ErrConflict })
		require.ErrorIs(t, err, context.Canceled)
	})
}
