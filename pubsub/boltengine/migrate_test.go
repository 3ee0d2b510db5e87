package boltengine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// What a group is owed is as old in a copy as it was: it is delivered until the topic's limit, and buried after it.
func TestCopiedEventsAge(t *testing.T) {
	e, _ := open(t)
	const maxAge = time.Hour
	owed := func(data string) pubsub.Record {
		return pubsub.Record{Kind: pubsub.RecordOwed, Topic: "t", Group: "g", Event: pubsub.Event{Data: []byte(data), PublishTime: noon}}
	}
	redriven := owed("redriven")
	redriven.History.Redriven = 1
	for _, r := range []pubsub.Record{
		{Kind: pubsub.RecordTopic, Topic: "t", Limits: pubsub.TopicLimits{MaxAge: maxAge}},
		{Kind: pubsub.RecordGroup, Topic: "t", Group: "g"},
		owed("1"), redriven, owed("2"),
	} {
		require.NoError(t, e.Import(t.Context(), []pubsub.Record{r}))
	}
	none := func(pubsub.RetryKey) bool { return false }
	read := func() (data []string, agesAt []time.Time) {
		all, err := e.ReadRedriven(t.Context(), "t", "g", none, 10, 1<<20)
		require.NoError(t, err)
		for _, r := range all {
			data, agesAt = append(data, string(r.Event.Data)), append(agesAt, r.AgesAt.UTC())
		}
		return data, agesAt
	}
	data, agesAt := read()
	require.Equal(t, []string{"1", "redriven", "2"}, data)
	require.Equal(t, []time.Time{noon.Add(maxAge), {}, noon.Add(maxAge)}, agesAt)

	// Also if the group never comes back.
	for more := true; more; {
		var err error
		_, more, err = e.BuryAged(t.Context(), noon.Add(maxAge), 10, func(string, string) bool { return true })
		require.NoError(t, err)
	}
	data, _ = read()
	require.Equal(t, []string{"redriven"}, data)
	dead, _, err := e.DeadLetters(t.Context(), pubsub.DeadLetterFilter{Limit: 10}, 0)
	require.NoError(t, err)
	require.Len(t, dead, 2)
	require.Equal(t, pubsub.ReasonMaxAge, dead[0].Reason)
}
