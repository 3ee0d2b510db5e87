package pubsub_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func TestDuplicatesAreStoredOnceWithinTheWindow(t *testing.T) {
	b := newBench(t)
	b.publish("t", named("a", "1"), named("a", "2"))
	b.publish("t", named("a", "3"))
	b.reopen()
	b.publish("t", named("a", "4"))
	b.clock.Advance(byID.DedupWindow - time.Nanosecond)
	b.publish("t", named("a", "5"))
	b.clock.Advance(time.Nanosecond)
	b.publish("t", named("a", "6"))
	b.publish("other", named("a", "7"))
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	b.expect(s, "1", "6")
	b.expectNothing(s, "t")
	require.EqualValues(t, 2, b.stats("t").Duplicates, "since the restart")
}

func TestRacingPublishersOfOneEventStoreItOnce(t *testing.T) {
	b := newBench(t)
	s := b.subscribe(pubsub.SubscribeOptions{Group: "g", Topic: "t"})
	outcomes := make(chan error)
	for range 32 {
		go func() {
			outcomes <- b.broker.Publish(context.Background(), "t", []pubsub.Message{named("same", "x")}, byID)[0]
		}()
	}
	for range 32 {
		require.NoError(t, <-outcomes)
	}
	b.expect(s, "x")
	b.expectNothing(s, "t")
}

func TestDedupBy(t *testing.T) {
	ce := func(id, source, data string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":%q,"type":"made","data":%s}`, id, source, data)
	}
	for name, c := range map[string]struct {
		by    string
		a, b  pubsub.Message
		once  bool
		fails string
	}{
		"id: same CloudEvent id":            {by: "id", a: message(ce("1", "s", `1`)), b: message(ce("1", "s", `2`)), once: true},
		"id: other source":                  {by: "id", a: message(ce("1", "s", `1`)), b: message(ce("1", "z", `1`))},
		"id: eventID wins":                  {by: "id", a: named("e", ce("1", "s", `1`)), b: named("e", ce("2", "s", `2`)), once: true},
		"id: raw without an id":             {by: "id", a: message("raw"), b: message("raw")},
		"data: new envelope":                {by: "data", a: message(ce("1", "s", `{"k":1}`)), b: message(ce("2", "s", `{"k":1}`)), once: true},
		"data: other data":                  {by: "data", a: message(ce("1", "s", `{"k":1}`)), b: message(ce("1", "s", `{"k":2}`))},
		"data: raw":                         {by: "data", a: message("raw"), b: message("raw"), once: true},
		"fields: same":                      {by: "fields:type,data.id", a: message(ce("1", "s", `{"id":7,"x":1}`)), b: message(ce("2", "s", `{"id":7,"x":2}`)), once: true},
		"fields: one differs":               {by: "fields:type,data.id", a: message(ce("1", "s", `{"id":7}`)), b: message(ce("2", "s", `{"id":8}`))},
		"fields: missing is refused":        {by: "fields:data.id", a: message(ce("1", "s", `{}`)), fails: `invalid payload "without data.id"`},
		"fields: not JSON is refused":       {by: "fields:data.id", a: message("raw"), fails: `allowed: JSON, since dedupBy is "fields:data.id"`},
		"none: the same id is stored again": {by: "none", a: named("e", "1"), b: named("e", "1")},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			by, err := pubsub.ParseDedupBy(c.by)
			require.NoError(t, err)
			require.Equal(t, c.by, by.String())
			opts := pubsub.PublishOptions{DedupBy: by, DedupWindow: time.Minute}
			errs := b.broker.Publish(t.Context(), "t", []pubsub.Message{c.a}, opts)
			if c.fails != "" {
				require.ErrorContains(t, errs[0], c.fails)
				require.Zero(t, b.stats("t").Stored)
				return
			}
			require.NoError(t, errs[0])
			require.NoError(t, b.broker.Publish(t.Context(), "t", []pubsub.Message{c.b}, opts)[0])
			want := uint64(2)
			if c.once {
				want = 1
			}
			require.Equal(t, want, b.stats("t").Stored)
		})
	}
	for _, bad := range []string{"", "ID", "fields:", "fields:a,,b", "soon"} {
		_, err := pubsub.ParseDedupBy(bad)
		require.ErrorContains(t, err, fmt.Sprintf("invalid dedupBy %q", bad))
	}
}
