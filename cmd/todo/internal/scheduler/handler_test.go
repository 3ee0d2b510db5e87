package scheduler_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/fake"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/scheduler"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/web"
)

func serve(t *testing.T, allowFaults bool) http.Handler {
	faults := &scheduler.Faults{}
	service, err := scheduler.New(scheduler.Options{
		Store: &fake.Store{}, Publisher: &fake.Broker{}, SlotsPerDay: 2, Faults: faults,
		Clock: clockwork.NewFakeClockAt(now), Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	app := web.New(web.Options{PubSub: "todo-pubsub", Status: scheduler.Status, Logger: slog.New(slog.DiscardHandler)})
	o := scheduler.HandlerOptions{Service: service}
	if allowFaults {
		o.Faults = faults
	}
	scheduler.Register(app, o)
	return app.Handler()
}

func call(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func deliver(h http.Handler, d event.Delivery) *httptest.ResponseRecorder {
	return call(h, "POST", "/events/"+d.Topic, fmt.Sprintf(`{"id":%q,"data":%s}`, d.ID, d.Data))
}

func TestCountsDeliveries(t *testing.T) {
	h := serve(t, false)
	d := created(t, "t1", due)
	require.JSONEq(t, `{"deliveries":0,"count":0}`, call(h, "GET", "/handled/"+d.ID, "").Body.String())
	deliver(h, d)
	deliver(h, d)
	require.JSONEq(t, `{"deliveries":2,"count":2}`, call(h, "GET", "/handled/"+d.ID, "").Body.String())
}

func TestFaults(t *testing.T) {
	h := serve(t, true)
	d := created(t, "t1", due)
	require.Equal(t, http.StatusOK, call(h, "PUT", "/faults", `{"failTitlesContaining":"TITLE OF"}`).Code)
	require.JSONEq(t, `{"failTitlesContaining":"TITLE OF"}`, call(h, "GET", "/faults", "").Body.String())
	w := deliver(h, d)
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), `injected fault: title "title of t1" contains "TITLE OF"`)
	require.JSONEq(t, `{"deliveries":1,"count":0}`, call(h, "GET", "/handled/"+d.ID, "").Body.String())

	require.Equal(t, http.StatusOK, call(h, "PUT", "/faults", `{"failTitlesContaining":""}`).Code)
	require.Equal(t, http.StatusOK, deliver(h, d).Code)
	require.JSONEq(t, `{"deliveries":2,"count":1}`, call(h, "GET", "/handled/"+d.ID, "").Body.String())
}

func TestFaultsAreOffUnlessAllowed(t *testing.T) {
	require.Equal(t, http.StatusNotFound, call(serve(t, false), "PUT", "/faults", `{"failTitlesContaining":"x"}`).Code)
}

func TestDays(t *testing.T) {
	h := serve(t, false)
	require.JSONEq(t, `{"date":"2030-01-02","slotsPerDay":2,"bookings":[]}`, call(h, "GET", "/days/2030-01-02", "").Body.String())
	deliver(h, created(t, "t1", due))
	require.JSONEq(t, `{"date":"2030-01-02","slotsPerDay":2,"bookings":[{"todoId":"t1",
		"slot":{"start":"2030-01-02T09:00:00Z","end":"2030-01-02T13:00:00Z"}}]}`, call(h, "GET", "/days/2030-01-02", "").Body.String())
	w := call(h, "GET", "/days/tomorrow", "")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), `"field":"date","value":"tomorrow"`)
}

func TestSubscriptions(t *testing.T) {
	body := call(serve(t, false), "GET", "/dapr/subscribe", "").Body.String()
	for _, topic := range []string{event.TaskCreated, event.TaskCompleted, event.TaskDeleted} {
		require.Contains(t, body, fmt.Sprintf(`{"pubsubname":"todo-pubsub","topic":%q,"route":"/events/%s"`, topic, topic))
	}
}
