package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
)

var (
	tomorrow  = time.Now().UTC().AddDate(0, 0, 1)
	yesterday = tomorrow.AddDate(0, 0, -2)
)

func TestSaga(t *testing.T) {
	e := newEnv(t, 2)
	one, two := e.post("one", tomorrow, "").todo(t).ID, e.post("two", tomorrow, "").todo(t).ID
	late := e.post("late", yesterday, "").todo(t).ID
	require.Empty(t, e.run())
	require.Equal(t, scheduled, e.todo(one).Status)
	require.Equal(t, "task-scheduled."+two, e.todo(two).DecidedBy)
	require.NotEqual(t, e.todo(one).Slot, e.todo(two).Slot)
	require.Equal(t, rejected, e.todo(late).Status)
	require.Contains(t, e.todo(late).Reason, "due date in the past")

	three := e.post("three", tomorrow, "").todo(t).ID
	require.Empty(t, e.run())
	require.Equal(t, rejected, e.todo(three).Status)
	require.Equal(t, "no slot left on "+dateOf(tomorrow), e.todo(three).Reason)
	require.Equal(t, sorted(one, two), e.holders(tomorrow))

	e.call(e.api, "POST", "/todos/"+one+"/complete", "").todo(t)
	require.Equal(t, http.StatusNoContent, e.call(e.api, "DELETE", "/todos/"+two, "").StatusCode)
	require.Empty(t, e.run())
	require.Empty(t, e.holders(tomorrow))
	four := e.post("four", tomorrow, "").todo(t).ID
	require.Empty(t, e.run())
	require.Equal(t, []string{four}, e.holders(tomorrow))
}

func TestATodoCompletedBeforeItIsBookedTakesNoSlot(t *testing.T) {
	e := newEnv(t, 1)
	id := e.post("quick", tomorrow, "").todo(t).ID
	e.call(e.api, "POST", "/todos/"+id+"/complete", "").todo(t)
	require.Empty(t, e.run())
	require.Equal(t, completed, e.todo(id).Status)
	require.Empty(t, e.holders(tomorrow))

	// The completion overtakes the creation: it is retried, say.
	id = e.post("quicker", tomorrow, "").todo(t).ID
	e.call(e.api, "POST", "/todos/"+id+"/complete", "").todo(t)
	e.dapr.mu.Lock()
	slices.Reverse(e.dapr.published[e.dapr.delivered:])
	e.dapr.mu.Unlock()
	before := len(e.dapr.eventIDs())
	require.Empty(t, e.run())
	require.Empty(t, e.holders(tomorrow))
	require.Len(t, e.dapr.eventIDs(), before, "there is nothing to answer")
}

func TestARejectionStands(t *testing.T) {
	e := newEnv(t, 1)
	one, two := e.post("one", tomorrow, "").todo(t).ID, e.post("two", tomorrow, "").todo(t).ID
	require.Empty(t, e.run())
	e.call(e.api, "POST", "/todos/"+one+"/complete", "").todo(t)
	require.Empty(t, e.run())
	require.Equal(t, http.StatusOK, e.deliver(e.dapr.published[1]).StatusCode, "a duplicate, now that there is room")
	require.Empty(t, e.run())
	require.Equal(t, rejected, e.todo(two).Status)
	require.Empty(t, e.holders(tomorrow))
}

// The api died between its write and its publish, or the broker was away: the client gets an error, repeats its request,
// and nothing is missing and nothing is double.
func TestARequestRepeatedAfterAFailedPublishGoesOn(t *testing.T) {
	e := newEnv(t, 2)
	broken, mended := failing("PublishEvent", codes.Unavailable), func(string) error { return nil }
	repeated := func(request func() answer) answer {
		e.dapr.fault(broken, nil)
		failed := request()
		require.Equal(t, http.StatusServiceUnavailable, failed.StatusCode, failed.body)
		e.dapr.fault(mended, nil)
		request()
		again := request()
		require.Empty(t, e.run())
		return again
	}
	id := repeated(func() answer { return e.post("one", tomorrow, "key") }).todo(t).ID
	require.Equal(t, scheduled, e.todo(id).Status)
	require.Equal(t, []string{id}, e.holders(tomorrow))
	repeated(func() answer { return e.call(e.api, "POST", "/todos/"+id+"/complete", "") }).todo(t)
	require.Empty(t, e.holders(tomorrow))

	id = e.post("two", tomorrow, "").todo(t).ID
	require.Empty(t, e.run())
	last := repeated(func() answer { return e.call(e.api, "DELETE", "/todos/"+id, "") })
	require.Equal(t, http.StatusNoContent, last.StatusCode)
	require.Empty(t, e.holders(tomorrow))
}

// The scheduler died between its decision and its publish: the event comes again, and is answered as decided.
func TestAnEventRepeatedAfterAFailedPublishGoesOn(t *testing.T) {
	e := newEnv(t, 2)
	id := e.post("one", tomorrow, "").todo(t).ID
	e.dapr.fault(failing("PublishEvent", codes.Unavailable), nil)
	require.Contains(t, strings.Join(e.run(), "\n"), "publish task-scheduled."+id)
	require.Equal(t, pending, e.todo(id).Status)
	e.dapr.fault(nil, nil)
	require.Equal(t, http.StatusOK, e.deliver(e.dapr.published[0]).StatusCode)
	require.Empty(t, e.run())
	require.Equal(t, scheduled, e.todo(id).Status)
	require.Equal(t, []string{id}, e.holders(tomorrow))
}

// A write took place and its answer was lost.
func TestAWriteWhoseAnswerIsLostIsMadeOnce(t *testing.T) {
	e := newEnv(t, 2)
	lost := func(request func() answer, method string) {
		e.dapr.fault(nil, failing(method, codes.Unavailable))
		require.GreaterOrEqual(t, request().StatusCode, 500)
		e.dapr.fault(nil, nil)
		require.Less(t, request().StatusCode, 300)
	}
	lost(func() answer { return e.post("one", tomorrow, "key") }, "SaveState")
	require.Len(t, e.dapr.todos(), 1)
	lost(func() answer { return e.deliver(e.dapr.published[0]) }, "ExecuteStateTransaction")
	require.Len(t, e.holders(tomorrow), 1)
	lost(func() answer { return e.deliver(e.dapr.published[len(e.dapr.published)-1]) }, "SaveState")
	require.Equal(t, scheduled, e.todo(e.holders(tomorrow)[0]).Status)
}

func TestRacingBookingsNeverShareASlot(t *testing.T) {
	e := newEnv(t, 5)
	for i := range 8 {
		e.post(fmt.Sprint("todo ", i), tomorrow, "").todo(t)
	}
	second, _ := start(t, "scheduler")
	var all sync.WaitGroup
	for i, r := range append(slices.Clone(e.dapr.published), e.dapr.published...) {
		all.Go(func() {
			to := *e
			if i%2 == 0 {
				to.scheduler = second
			}
			// A conflict that outlasts the retries has the event delivered again.
			for to.deliver(r).StatusCode != http.StatusOK {
			}
		})
	}
	all.Wait()
	e.dapr.mu.Lock()
	e.dapr.delivered = 8
	e.dapr.mu.Unlock()
	require.Empty(t, e.run())
	require.Len(t, e.holders(tomorrow), 5)
	answers := map[string]int{}
	for _, r := range e.dapr.published[8:] {
		answers[r.GetMetadata()["cloudevent.subject"]+" "+r.GetTopic()]++
	}
	require.Len(t, answers, 8, "one answer for each todo: %v", answers)
}

func TestTheSagaGoesOnOnceAFaultIsMended(t *testing.T) {
	e := newEnv(t, 1)
	set := func(word string) {
		require.Equal(t, http.StatusOK, e.call(e.scheduler, "PUT", "/faults", fmt.Sprintf(`{"failTitlesContaining":%q}`, word)).StatusCode)
	}
	set("POISON")
	id := e.post("Poison pill", tomorrow, "").todo(t).ID
	require.Contains(t, e.run()[0], `injected fault: title "Poison pill" contains "POISON"`)
	require.Equal(t, pending, e.todo(id).Status)
	set("")
	require.Equal(t, http.StatusOK, e.deliver(e.dapr.published[0]).StatusCode)
	require.Empty(t, e.run())
	require.Equal(t, scheduled, e.todo(id).Status)

	strict, _ := start(t, "scheduler")
	require.Equal(t, http.StatusNotFound, e.call(strict, "PUT", "/faults", `{"failTitlesContaining":"x"}`).StatusCode)
}

func TestAMalformedEventFailsWithAText(t *testing.T) {
	e := newEnv(t, 1)
	for topic, service := range map[string]string{
		taskCreated: e.scheduler, taskCompleted: e.scheduler, taskDeleted: e.scheduler, taskScheduled: e.api, taskRejected: e.api,
	} {
		for _, body := range []string{`{"id":"x"}`, `{"data":{"todoId":"t"}}`} {
			a := e.call(service, "POST", "/events/"+topic, body)
			require.Equal(t, http.StatusInternalServerError, a.StatusCode)
			require.Contains(t, a.body, "malformed event")
		}
		require.Contains(t, e.call(service, "GET", "/dapr/subscribe", "").body,
			fmt.Sprintf(`{"pubsubname":"todo-pubsub","topic":%q,"route":"/events/%s"`, topic, topic))
	}
	require.Equal(t, http.StatusOK, e.call(e.api, "POST", "/events/task-rejected", `{"id":"x","data":{"todoId":"nobody","reason":"r"}}`).StatusCode)
}

func TestOnlyTheSidecarDeliversEvents(t *testing.T) {
	t.Setenv("APP_API_TOKEN", "secret")
	e := newEnv(t, 1)
	body := `{"id":"x","data":{"todoId":"t"}}`
	require.Equal(t, http.StatusUnauthorized, e.call(e.scheduler, "POST", "/events/task-deleted", body).StatusCode)
	require.Equal(t, http.StatusOK, e.call(e.scheduler, "POST", "/events/task-deleted", body, "dapr-api-token", "secret").StatusCode)
}

func TestDays(t *testing.T) {
	e := newEnv(t, 4)
	a := e.call(e.scheduler, "GET", "/days/tomorrow", "")
	require.Equal(t, http.StatusBadRequest, a.StatusCode)
	require.Contains(t, a.body, `date is \"tomorrow\", want`)
	require.JSONEq(t, `{"date":"2030-01-02","slots":["","","","","","","",""]}`, e.call(e.scheduler, "GET", "/days/2030-01-02", "").body)
}

func TestBooking(t *testing.T) {
	at := func(day, hour int) time.Time { return time.Date(2030, 1, day, hour, 0, 0, 0, time.UTC) }
	book := func(d *day, id string, due, now time.Time) string {
		s := d.book(id, due, now)
		if s == nil {
			return "none"
		}
		return s.Start.Format("02 15:04") + " to " + s.End.Format("15:04")
	}
	var d day
	require.Equal(t, "02 09:00 to 10:00", book(&d, "a", at(2, 23), at(1, 12)))
	require.Equal(t, "02 10:00 to 11:00", book(&d, "b", at(2, 23), at(1, 12)))
	d.release("a")
	require.Equal(t, "02 09:00 to 10:00", book(&d, "c", at(2, 23), at(1, 12)), "a slot that is free again")

	var today day
	require.Equal(t, "01 16:00 to 17:00", book(&today, "a", at(1, 23), at(1, 15).Add(time.Minute)), "the slot at 15 has begun")
	require.Equal(t, "none", book(&today, "b", at(1, 23), at(1, 15).Add(time.Minute)))
}
