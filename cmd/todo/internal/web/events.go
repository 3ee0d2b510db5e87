package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/dapr/go-sdk/service/common"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
)

// A sidecar delivers nothing larger than a gRPC message of 4 MiB.
const maxEvent = 4 << 20

type cloudEvent struct {
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data"`
}

// Subscribe has the sidecar deliver a topic to a handler.
//
// It takes the place of the SDK's HTTP service, which answers 200 with the status RETRY when a handler fails:
// the error's text would not leave the app, and dead letters would not say why. Here a failure is a 500 with
// the text, which the sidecar hands on to the broker. The SDK also hides the headers that carry the broker's
// delivery count.
func (a *App) Subscribe(topic string, handle event.Handler) {
	route := "/events/" + topic
	a.subscriptions = append(a.subscriptions, common.Subscription{PubsubName: a.options.PubSub, Topic: topic, Route: route})
	a.mux.HandleFunc("POST "+route, func(w http.ResponseWriter, r *http.Request) {
		if !a.fromSidecar(r) {
			writeError(w, http.StatusUnauthorized, fmt.Errorf("header %s is missing or wrong, want the value of %s",
				common.APITokenKey, common.AppAPITokenEnvVar))
			return
		}
		var ce cloudEvent
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEvent)).Decode(&ce); err != nil {
			a.drop(w, r, event.Delivery{Topic: topic}, fmt.Errorf("%w on %s: not a CloudEvent: %w", event.ErrMalformed, topic, err))
			return
		}
		d := event.Delivery{ID: ce.ID, Topic: topic, Attempt: r.Header.Get("deliveryCount"), Data: ce.Data}
		err := handle(r.Context(), d)
		switch {
		case errors.Is(err, event.ErrMalformed):
			a.drop(w, r, d, err)
		case err != nil:
			a.options.Logger.ErrorContext(r.Context(), "Event failed", "event", d.ID, "topic", d.Topic, "deliveryCount", d.Attempt, "error", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			a.options.Logger.InfoContext(r.Context(), "Event handled", "event", d.ID, "topic", d.Topic, "deliveryCount", d.Attempt)
			settle(w, common.SubscriptionResponseStatusSuccess)
		}
	})
}

func (a *App) drop(w http.ResponseWriter, r *http.Request, d event.Delivery, err error) {
	a.options.Logger.WarnContext(r.Context(), "Event dropped", "event", d.ID, "topic", d.Topic, "deliveryCount", d.Attempt, "error", err)
	settle(w, common.SubscriptionResponseStatusDrop)
}

func settle(w http.ResponseWriter, status common.SubscriptionResponseStatus) {
	_ = WriteJSON(w, http.StatusOK, common.SubscriptionResponse{Status: status})
}
