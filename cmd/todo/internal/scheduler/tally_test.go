package scheduler_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/scheduler"
)

func TestTallyIsBounded(t *testing.T) {
	tally := &scheduler.Tally{}
	count := tally.Counting(func(context.Context, event.Delivery) error { return nil })
	for i := range 10_001 {
		require.NoError(t, count(t.Context(), event.Delivery{ID: strconv.Itoa(i)}))
	}
	require.Zero(t, tally.Of("0"), "forgotten")
	require.Equal(t, scheduler.Count{Deliveries: 1, Handled: 1}, tally.Of("1"))
	require.Equal(t, scheduler.Count{Deliveries: 1, Handled: 1}, tally.Of("10000"))
}
