package boltengine

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Publishers and subscribers that race for the last names get exactly as many as there are, and what is refused leaves
// nothing behind.
func TestNamesAreLimitedInOneStep(t *testing.T) {
	const limit, tried = 5, 40
	e, db := open(t)
	limits := pubsub.NameLimits{MaxTopics: limit, MaxGroups: limit}
	race := func(try func(i int) error, refusal error) {
		t.Helper()
		var racing sync.WaitGroup
		errs := make(chan error, tried)
		for i := range tried {
			racing.Go(func() { errs <- try(i) })
		}
		racing.Wait()
		close(errs)
		refused := 0
		for err := range errs {
			if err != nil {
				require.ErrorIs(t, err, refusal)
				refused++
			}
		}
		require.Equal(t, tried-limit, refused)
	}
	race(func(i int) error {
		if i%2 == 0 {
			_, err := e.OpenGroup(t.Context(), fmt.Sprint("topic ", i), "g", pubsub.DeliverAll, limits)
			return err
		}
		_, err := e.Append(t.Context(), fmt.Sprint("topic ", i), entries(1), pubsub.AppendOptions{Names: limits}, noon)
		return err
	}, pubsub.ErrTooManyTopics)
	require.Equal(t, limit, counts(t, e, db)["topics"])

	topics, err := e.Topics(t.Context())
	require.NoError(t, err)
	_, err = e.OpenGroup(t.Context(), topics[0], "g", pubsub.DeliverAll, pubsub.NameLimits{})
	require.NoError(t, err)
	require.NoError(t, e.RemoveGroup(t.Context(), topics[0], "g"))
	before := counts(t, e, db)["groups"]
	race(func(i int) error {
		_, err := e.OpenGroup(t.Context(), topics[0], fmt.Sprint("group ", i), pubsub.DeliverAll, limits)
		return err
	}, pubsub.ErrTooManyGroups)
	require.Equal(t, before+limit, counts(t, e, db)["groups"])

	race(func(i int) error {
		_, err := e.OpenGroup(t.Context(), "*", fmt.Sprint("group ", i), pubsub.DeliverAll, limits)
		return err
	}, pubsub.ErrTooManyGroups)
	require.Equal(t, limit, counts(t, e, db)["patterns"])

	// What is there stays in use, under whatever limits.
	limits = pubsub.NameLimits{MaxTopics: 1, MaxGroups: 1}
	for _, topic := range topics {
		_, err := e.Append(t.Context(), topic, entries(1), pubsub.AppendOptions{Names: limits}, noon)
		require.NoError(t, err)
	}
}
