package web_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/web"
)

func post(h http.Handler, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestDelivery(t *testing.T) {
	var logs bytes.Buffer
	app := web.New(web.Options{PubSub: "p", Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	var got event.Delivery
	var answer error
	app.Subscribe("t", func(_ context.Context, d event.Delivery) error { got = d; return answer })
	h := app.Handler()

	w := post(h, "/events/t", `{"id":"e1","specversion":"1.0","data":{"a":1}}`, "deliveryCount", "3")
	require.Equal(t, http.StatusOK, w.Code)
	require.JSONEq(t, `{"status":"SUCCESS"}`, w.Body.String())
	require.Equal(t, event.Delivery{ID: "e1", Topic: "t", Attempt: "3", Data: []byte(`{"a":1}`)}, got)
	require.Contains(t, logs.String(), "deliveryCount=3")

	answer = errors.New("disk on fire")
	w = post(h, "/events/t", `{"id":"e1","data":{}}`)
	require.Equal(t, http.StatusInternalServerError, w.Code, "so that it is delivered again")
	require.Equal(t, "disk on fire\n", w.Body.String(), "the text that a dead letter keeps")

	answer = fmt.Errorf("%w: no todoId", event.ErrMalformed)
	logs.Reset()
	w = post(h, "/events/t", `{"id":"e1","data":{}}`)
	require.Equal(t, http.StatusOK, w.Code)
	require.JSONEq(t, `{"status":"DROP"}`, w.Body.String())
	require.Contains(t, logs.String(), "Event dropped")

	got = event.Delivery{}
	require.JSONEq(t, `{"status":"DROP"}`, post(h, "/events/t", `not JSON`).Body.String())
	require.Zero(t, got)
}

func TestAppToken(t *testing.T) {
	app := web.New(web.Options{PubSub: "p", AppToken: "secret", Logger: slog.New(slog.DiscardHandler)})
	calls := 0
	app.Subscribe("t", func(context.Context, event.Delivery) error { calls++; return nil })
	body := `{"id":"e1","data":{}}`
	require.Equal(t, http.StatusUnauthorized, post(app.Handler(), "/events/t", body).Code)
	require.Equal(t, http.StatusUnauthorized, post(app.Handler(), "/events/t", body, "dapr-api-token", "guess").Code)
	require.Zero(t, calls)
	require.Equal(t, http.StatusOK, post(app.Handler(), "/events/t", body, "dapr-api-token", "secret").Code)
	require.Equal(t, 1, calls)
}

func TestPanicIsAnswered(t *testing.T) {
	var logs bytes.Buffer
	app := web.New(web.Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	app.Handle("POST /panic", func(http.ResponseWriter, *http.Request) error { panic("oops") })
	w := post(app.Handler(), "/panic", "")
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), "oops")
	require.Contains(t, logs.String(), "app_test.go", "the stack")
}

func TestHealth(t *testing.T) {
	away := errors.New("sidecar is away")
	app := web.New(web.Options{Ready: func() error { return away }, Logger: slog.New(slog.DiscardHandler)})
	get := func(path string) int {
		w := httptest.NewRecorder()
		app.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code
	}
	require.Equal(t, http.StatusOK, get("/healthz"))
	require.Equal(t, http.StatusServiceUnavailable, get("/readyz"))
	away = nil
	require.Equal(t, http.StatusOK, get("/readyz"))
}
