package admin

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/databases/databasestest"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

var (
	manyEvents = flag.Int("many-events", 100_000, "events in the topic of the test that counts records read")
	manyKeys   = flag.Int("many-keys", 20_000, "keys in the bucket of that test")
)

func (d *data) store() *statestore.Store {
	d.t.Helper()
	store, err := d.manager.StateStore(d.t.Context(), "dapr", "state")
	require.NoError(d.t, err)
	return store
}

// Whatever a topic or a bucket holds, an answer reads what it shows, and little more.
func TestAnswersReadABoundedNumberOfRecords(t *testing.T) {
	d := newData(t)
	owed := d.subscribe(pubsub.SubscribeOptions{Topic: "many"})
	owed.Close()
	const batch = 1000
	for n := 0; n < *manyEvents; n += batch {
		messages := make([]pubsub.Message, batch)
		for i := range messages {
			messages[i] = pubsub.Message{Data: []byte("1")}
			if n < 5*batch {
				messages[i].DeliverAt = time.Now().Add(time.Hour)
			}
		}
		for _, err := range d.broker.Publish(t.Context(), "many", messages, pubsub.PublishOptions{}) {
			require.NoError(t, err)
		}
	}
	store := d.store()
	for n := 0; n < *manyKeys; n += batch {
		var writes []statestore.Write
		for i := range batch {
			writes = append(writes, statestore.Write{Op: statestore.OpSet, Key: fmt.Sprintf("app%d||key-%08d", (n+i)%3, n+i), Value: []byte("1")})
		}
		require.NoError(t, store.Apply(t.Context(), statestore.Transaction{Writes: writes}))
	}

	c := d.serve()
	ctx := t.Context()
	for name, ask := range map[string]func() error{
		"overview": func() error { _, err := CallOverview.Ask(ctx, c, Empty{}); return err },
		"topics":   func() error { _, err := CallTopics.Ask(ctx, c, TopicsRequest{}); return err },
		"topic":    func() error { _, err := CallTopic.Ask(ctx, c, TopicRequest{Topic: "many"}); return err },
		"events":   func() error { _, err := CallEvents.Ask(ctx, c, EventsRequest{Topic: "many"}); return err },
		"event":    func() error { _, err := CallEvent.Ask(ctx, c, EventRequest{Topic: "many", Sequence: 500}); return err },
		"retries":  func() error { _, err := CallRetries.Ask(ctx, c, RetriesRequest{Topic: "many"}); return err },
		"keys":     func() error { _, err := CallKeys.Ask(ctx, c, KeysRequest{Prefix: "app1||"}); return err },
		"apps":     func() error { _, err := CallApps.Ask(ctx, c, PageRequest{}); return err },
		"indexes":  func() error { _, err := CallStateBucket.Ask(ctx, c, Bucket{}); return err },
		"value":    func() error { _, err := CallValue.Ask(ctx, c, KeyRequest{Key: "app1||key-00000001"}); return err },
		"letters":  func() error { _, err := CallDeadLetters.Ask(ctx, c, ListOptions{}); return err },
		"groups":   func() error { _, err := CallDeadLetterGroups.Ask(ctx, c, ListOptions{}); return err },
	} {
		read := databasestest.RecordsRead(t, d.manager, func() { require.NoError(t, ask(), name) })
		require.Less(t, read, uint64(3*DefaultPageSize), name)
	}
	topic, err := CallTopic.Ask(ctx, c, TopicRequest{Topic: "many"})
	require.NoError(t, err)
	require.EqualValues(t, 5*batch, topic.Delayed)
	require.EqualValues(t, *manyEvents-5*batch, topic.Groups[0].Waiting)
	apps, err := CallApps.Ask(ctx, c, PageRequest{})
	require.NoError(t, err)
	require.Equal(t, []string{"app0", "app1", "app2"}, apps.Apps)
}

func TestEventsAreShownAndTraced(t *testing.T) {
	d := newData(t)
	for i := range 5 {
		d.publish("orders", fmt.Sprint(i))
	}
	sub := d.subscribe(pubsub.SubscribeOptions{Topic: "orders", MaxDeliver: 5, BackOff: pubsub.BackOff{time.Hour}, MaxAckPending: 3, AckWait: time.Minute})
	d.next(sub).Ack()
	d.next(sub).Nack("no slot")
	d.next(sub)
	c := d.serve()
	require.Eventually(t, func() bool {
		topic, err := CallTopic.Ask(t.Context(), c, TopicRequest{Topic: "orders"})
		return err == nil && topic.Retrying == 1 && topic.Acknowledged == 1
	}, waitLong, time.Millisecond)

	topic, err := CallTopic.Ask(t.Context(), c, TopicRequest{Topic: "orders"})
	require.NoError(t, err)
	require.Len(t, topic.Consumers, 1)
	require.Equal(t, "app", topic.Consumers[0].Group)
	require.Equal(t, ConsumerConfig{MaxDeliver: 5, BackOff: []string{"1h0m0s"}, AckWait: "1m0s", MaxAckPending: 3, DeliverPolicy: "all"}, topic.Consumers[0].Config)

	var sequences []uint64
	for before := uint64(0); ; {
		page, err := CallEvents.Ask(t.Context(), c, EventsRequest{Topic: "orders", Before: before, Limit: 2, Data: true})
		require.NoError(t, err)
		for _, e := range page.Events {
			sequences = append(sequences, e.Sequence)
			require.Equal(t, fmt.Sprint(e.Sequence-1), string(e.Data))
		}
		if before = page.Next; before == 0 {
			break
		}
	}
	require.Equal(t, []uint64{5, 4, 3, 2, 1}, sequences, "the one that was handled is remembered")

	for sequence, want := range map[uint64]pubsub.EventState{1: pubsub.EventHandled, 2: pubsub.EventRetrying, 3: pubsub.EventInFlight, 5: pubsub.EventInFlight} {
		e, err := CallEvent.Ask(t.Context(), c, EventRequest{Topic: "orders", Sequence: sequence})
		require.NoError(t, err)
		require.Equal(t, want, e.Groups[0].State, sequence)
		require.True(t, e.Kept)
	}
	late := d.subscribe(pubsub.SubscribeOptions{Topic: "orders", Group: "late", DeliverPolicy: pubsub.DeliverNew})
	d.publish("orders", "5")
	d.next(late)
	for sequence, want := range map[uint64]pubsub.EventState{1: pubsub.EventNotOwed, 5: pubsub.EventNotOwed, 6: pubsub.EventInFlight} {
		e, err := CallEvent.Ask(t.Context(), c, EventRequest{Topic: "orders", Sequence: sequence})
		require.NoError(t, err)
		require.Equal(t, "late", e.Groups[1].Group)
		require.Equal(t, want, e.Groups[1].State, "event %d for a group that began after 5", sequence)
	}
	_, err = CallEvent.Ask(t.Context(), c, EventRequest{Topic: "orders", Sequence: 7})
	requireStatus(t, err, http.StatusNotFound, `event 7 of topic "orders": not found`)
}

func TestRetriesAreSentNowOrSkipped(t *testing.T) {
	for _, consumed := range []bool{true, false} {
		t.Run(fmt.Sprint("consumed ", consumed), func(t *testing.T) {
			d := newData(t)
			opts := pubsub.SubscribeOptions{Topic: "orders", MaxDeliver: 5, BackOff: pubsub.BackOff{time.Hour}, MaxAckPending: 4}
			sub := d.subscribe(opts)
			for i := range 3 {
				d.publish("orders", fmt.Sprint(i))
			}
			d.next(sub).Nack("a")
			d.next(sub).Nack("b")
			third := d.next(sub)
			third.Nack("c")
			c := d.serve()
			var page RetryPage
			require.Eventually(t, func() bool {
				var err error
				page, err = CallRetries.Ask(t.Context(), c, RetriesRequest{Topic: "orders"})
				return err == nil && len(page.Retries) == 3
			}, waitLong, time.Millisecond)
			if !consumed {
				sub.Close()
			}
			require.NoError(t, errorOf(CallRetrySkip.Ask(t.Context(), c, RetryRequest{Topic: "orders", Group: "app", Sequence: 1})))
			require.NoError(t, errorOf(CallRetryNow.Ask(t.Context(), c, RetryRequest{Topic: "orders", Group: "app", Sequence: 2})))
			if !consumed {
				sub = d.subscribe(opts)
			}
			again := d.next(sub)
			require.EqualValues(t, 2, again.Event.Sequence)
			require.Equal(t, 2, again.Count)
			requireStatus(t, errorOf(CallRetryNow.Ask(t.Context(), c, RetryRequest{Topic: "orders", Group: "app", Sequence: 2})), http.StatusConflict, "in flight")
			requireStatus(t, errorOf(CallRetrySkip.Ask(t.Context(), c, RetryRequest{Topic: "orders", Group: "app", Sequence: 1})), http.StatusNotFound, "no retry of event 1")
			again.Ack()
			letters, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{Reason: pubsub.ReasonSkipped})
			require.NoError(t, err)
			require.Len(t, letters.DeadLetters, 1)
			require.Equal(t, "a", letters.DeadLetters[0].LastError)
			traced, err := CallEvent.Ask(t.Context(), c, EventRequest{Topic: "orders", Sequence: 1})
			require.NoError(t, err)
			require.Equal(t, pubsub.EventDead, traced.Groups[0].State)
			require.Equal(t, letters.DeadLetters[0].ID, traced.Groups[0].DeadLetter)
		})
	}
}

func TestATopicIsRemovedAndBeginsAnew(t *testing.T) {
	d := newData(t)
	d.dies("orders", "1")
	sub := d.subscribe(pubsub.SubscribeOptions{Topic: "orders"})
	d.publish("orders", "2")
	d.publish("orders", "3", func(m *pubsub.Message) { m.DeliverAt = time.Now().Add(time.Hour) })
	c := d.serve()
	requireStatus(t, errorOf(CallRemoveTopic.Ask(t.Context(), c, TopicRequest{Topic: "orders"})), http.StatusBadRequest, `stop the app of group "app" first`)
	sub.Close()
	require.NoError(t, errorOf(CallRemoveTopic.Ask(t.Context(), c, TopicRequest{Topic: "orders"})))
	topics, err := CallTopics.Ask(t.Context(), c, TopicsRequest{})
	require.NoError(t, err)
	require.Empty(t, topics.Topics)
	letters, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{})
	require.NoError(t, err)
	require.Empty(t, letters.DeadLetters)
	requireStatus(t, errorOf(CallRemoveTopic.Ask(t.Context(), c, TopicRequest{Topic: "orders"})), http.StatusNotFound, "not found")

	d.publish("orders", "4")
	topic, err := CallTopic.Ask(t.Context(), c, TopicRequest{Topic: "orders"})
	require.NoError(t, err)
	require.EqualValues(t, 1, topic.Stored)
	require.Zero(t, topic.Delayed)
	require.EqualValues(t, 1, topic.LastSequence)
}

func TestPublishAndWatch(t *testing.T) {
	d := newData(t)
	c := d.serve()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan WatchedEvent, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, TopicRequest{Topic: "orders"}, func(e WatchedEvent) error {
			select {
			case seen <- e:
			case <-ctx.Done(): // it was published while nobody looked
			}
			return nil
		})
	}()
	var published PublishResult
	var event WatchedEvent
	require.Eventually(t, func() bool { // until it watches
		var err error
		published, err = CallPublish.Ask(t.Context(), c, PublishRequest{Topic: "orders", Content: ExactContent([]byte(`{"n":1}`)), Metadata: map[string]string{"colour": "blue"}})
		require.NoError(t, err)
		select {
		case event = <-seen:
			return event.ID != ""
		case <-time.After(10 * time.Millisecond):
			return false
		}
	}, waitLong, time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
	require.NotEmpty(t, published.ID)
	require.Equal(t, "blue", event.Metadata["colour"])
	var cloud struct {
		ID, Source, Type, Topic, SpecVersion string
		Data                                 json.RawMessage
	}
	require.NoError(t, json.Unmarshal(event.Data, &cloud))
	require.JSONEq(t, `{"n":1}`, string(cloud.Data))
	require.Equal(t, "1.0", cloud.SpecVersion)

	raw := []byte("\xffraw")
	_, err := CallPublish.Ask(t.Context(), c, PublishRequest{Topic: "raw", Raw: true, Content: ExactContent(raw)})
	require.NoError(t, err)
	page, err := CallEvents.Ask(t.Context(), c, EventsRequest{Topic: "raw", Data: true})
	require.NoError(t, err)
	payload, err := page.Events[0].Payload()
	require.NoError(t, err)
	require.Equal(t, raw, payload)
}

func TestDeadLettersOfOneCauseAreOneGroup(t *testing.T) {
	d := newData(t)
	sub := d.subscribe(pubsub.SubscribeOptions{Topic: "orders", MaxDeliver: 1})
	for i := range 30 {
		d.publish("orders", "1")
		failure := fmt.Sprintf("order %d: no slot", i)
		if i == 7 {
			failure = "timeout"
		}
		d.next(sub).Nack(failure)
	}
	c := d.serve()
	var groups DeadLetterGroups
	require.Eventually(t, func() bool {
		var err error
		groups, err = CallDeadLetterGroups.Ask(t.Context(), c, ListOptions{})
		return err == nil && len(groups.Groups) == 2 && groups.Groups[0].Count == 29
	}, waitLong, time.Millisecond)
	require.Equal(t, "order #: no slot", groups.Groups[0].Cause)
	page, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{Cause: "timeout"})
	require.NoError(t, err)
	require.Len(t, page.DeadLetters, 1)

	job, err := d.service.StartJob(t.Context(), JobRequest{Action: JobPurge, Filter: ListOptions{Cause: groups.Groups[0].Cause}})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		job, err = d.service.Job(t.Context(), JobRequestID{job.ID})
		return err == nil && job.State == JobDone
	}, waitLong, time.Millisecond)
	require.True(t, job.Counted)
	require.Equal(t, 29, job.Total)
	require.Equal(t, 29, job.Done)
	_, err = d.service.StartJob(t.Context(), JobRequest{Action: "burn"})
	require.Equal(t, http.StatusBadRequest, StatusOf(err))
	require.ErrorContains(t, err, `action "burn": allowed: redrive, purge`)
	require.NoError(t, d.service.Close(t.Context()))
	_, err = d.service.StartJob(t.Context(), JobRequest{Action: JobPurge})
	require.Equal(t, http.StatusServiceUnavailable, StatusOf(err))
	require.ErrorContains(t, err, "jobs run already")
}

// What dies again while a job runs is not for that job, or a redrive would never end. A job that waits can be stopped.
func TestAJobTakesWhatWasThereWhenItBegan(t *testing.T) {
	d := newData(t)
	for range 3 {
		d.dies("orders", "1")
	}
	c := d.serve()
	slow, err := d.service.StartJob(t.Context(), JobRequest{Action: JobRedrive, Rate: 0.001})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		slow, err = d.service.Job(t.Context(), JobRequestID{slow.ID})
		return err == nil && slow.Done == 1
	}, waitLong, time.Millisecond)
	sub := d.subscribe(pubsub.SubscribeOptions{Topic: "orders", MaxDeliver: 1})
	d.next(sub).Nack("again")
	require.Eventually(t, func() bool {
		page, err := CallDeadLetters.Ask(t.Context(), c, ListOptions{})
		return err == nil && len(page.DeadLetters) == 3
	}, waitLong, time.Millisecond)
	slow, err = d.service.Job(t.Context(), JobRequestID{slow.ID})
	require.NoError(t, err)
	require.Equal(t, 3, slow.Total)
	_, err = CallCancelJob.Ask(t.Context(), c, JobRequestID{slow.ID})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		slow, err = d.service.Job(t.Context(), JobRequestID{slow.ID})
		return err == nil && slow.State == JobCanceled
	}, waitLong, time.Millisecond)
	require.Equal(t, 1, slow.Done)
	require.NoError(t, d.service.Close(t.Context()))
}

func TestDeadLettersAreShownPageAfterPage(t *testing.T) {
	d := newData(t)
	var want []uint64
	for range 3 * readStep {
		want = append(want, d.dies("orders", "1"))
	}
	for _, opts := range []ListOptions{{}, {Cause: "second"}, {Topic: "orders", Reason: pubsub.ReasonMaxDeliver}} {
		var got []uint64
		next, err := eachDeadLetter(t.Context(), d.broker, opts, func(l *pubsub.DeadLetter) bool {
			got = append(got, l.ID)
			return true
		})
		require.NoError(t, err)
		require.Zero(t, next)
		require.Equal(t, want, got)
	}
	page, err := CallDeadLetters.Do(t.Context(), d.service, ListOptions{Limit: readStep + 1, Cause: "second"})
	require.NoError(t, err)
	require.Len(t, page.DeadLetters, readStep+1)
	require.Equal(t, want[readStep], page.Next)
}

func TestState(t *testing.T) {
	d := newData(t)
	store := d.store()
	require.NoError(t, store.Apply(t.Context(), statestore.Transaction{
		Writes:         []statestore.Write{{Op: statestore.OpSet, Key: "api||a", Value: []byte(`{"n":1}`), TTL: time.Hour}, {Op: statestore.OpSet, Key: "plain", Value: []byte("\xff")}},
		IdempotencyKey: "once",
	}))
	c := d.serve()
	ctx := t.Context()
	keys, err := CallKeys.Ask(ctx, c, KeysRequest{Prefix: "api||"})
	require.NoError(t, err)
	require.Len(t, keys.Keys, 1)
	require.NotZero(t, keys.Keys[0].Expires)
	require.Equal(t, 7, keys.Keys[0].Size)
	first, err := CallKeys.Ask(ctx, c, KeysRequest{PageRequest: PageRequest{Limit: 1}})
	require.NoError(t, err)
	require.Equal(t, "api||a", first.Next)

	etag := keys.Keys[0].ETag
	set, err := CallSetValue.Ask(ctx, c, SetRequest{Key: "api||a", ETag: etag, Content: ExactContent([]byte(`{"n": 2}`))})
	require.NoError(t, err)
	require.NotEqual(t, etag, set.ETag)
	_, err = CallSetValue.Ask(ctx, c, SetRequest{Key: "api||a", ETag: etag, Content: ExactContent(nil)})
	requireStatus(t, err, http.StatusConflict, "does not match")
	_, err = CallSetValue.Ask(ctx, c, SetRequest{Key: "api||a", Content: ExactContent(nil)})
	requireStatus(t, err, http.StatusConflict, "it exists")
	item, err := store.Get(ctx, "api||a")
	require.NoError(t, err)
	require.Equal(t, `{"n": 2}`, string(item.Value), "byte for byte")
	requireStatus(t, errorOf(CallDeleteValue.Ask(ctx, c, DeleteRequest{Key: "api||a", ETag: etag})), http.StatusConflict, "does not match")
	requireStatus(t, errorOf(CallDeleteValue.Ask(ctx, c, DeleteRequest{Key: "api||a"})), http.StatusBadRequest, "etag")

	found, err := CallQuery.Ask(ctx, c, QueryRequest{Query: json.RawMessage(`{"filter":{"EQ":{"n":2}}}`)})
	require.NoError(t, err)
	require.Len(t, found.Items, 1)
	require.Empty(t, found.Index)
	require.NoError(t, store.AddQueryIndexes("n"))
	require.Eventually(t, func() bool {
		info, err := CallStateBucket.Ask(ctx, c, Bucket{})
		return err == nil && len(info.Indexes) == 1 && info.Indexes[0].Complete
	}, waitLong, time.Millisecond)
	found, err = CallQuery.Ask(ctx, c, QueryRequest{Query: json.RawMessage(`{"filter":{"EQ":{"n":2}}}`)})
	require.NoError(t, err)
	require.Equal(t, "n", found.Index)

	once, err := CallIdempotencyKeys.Ask(ctx, c, PageRequest{})
	require.NoError(t, err)
	require.Len(t, once.Keys, 1)
	require.NoError(t, errorOf(CallDeleteValue.Ask(ctx, c, DeleteRequest{Key: "api||a", ETag: set.ETag})))
	_, err = CallValue.Ask(ctx, c, KeyRequest{Key: "api||a"})
	requireStatus(t, err, http.StatusNotFound, `key "api||a": not found`)

	require.NoError(t, errorOf(CallRemoveBucket.Ask(ctx, c, RemoveBucketRequest{Kind: "state"})))
	apps, err := CallKeys.Ask(ctx, c, KeysRequest{})
	require.NoError(t, err)
	require.Empty(t, apps.Keys)
	again, err := CallSetValue.Ask(ctx, c, SetRequest{Key: "api||a", Content: ExactContent([]byte("1"))})
	require.NoError(t, err)
	require.NotEqual(t, etag, again.ETag, "an ETag names one version for ever")
	requireStatus(t, errorOf(CallRemoveBucket.Ask(ctx, c, RemoveBucketRequest{Kind: "x"})), http.StatusBadRequest, `kind "x": allowed: state, pubsub`)
}

func TestOverviewSaysWhatNeedsAPerson(t *testing.T) {
	d := newData(t)
	d.dies("orders", "1")
	d.publish("orders", "2")
	o, err := CallOverview.Ask(t.Context(), d.serve(), Empty{})
	require.NoError(t, err)
	require.True(t, o.Healthy)
	require.EqualValues(t, 1, o.DeadLetters)
	var kinds []AttentionKind
	for _, a := range o.Attention {
		kinds = append(kinds, a.Kind)
	}
	require.ElementsMatch(t, []AttentionKind{AttentionDeadLetters, AttentionNoInstances}, kinds)
	require.Equal(t, "orders", o.OldestOwed.Topic)
}
