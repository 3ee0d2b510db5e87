package scheduler

import (
	"errors"
	"net/http"
	"time"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/web"
)

// HandlerOptions sets the scheduler's routes up. Service is required.
type HandlerOptions struct {
	Service *Service
	// Faults, if set, can be read and changed at /faults.
	Faults *Faults
}

// Register adds the scheduler's routes and subscriptions:
//
//	GET /days/{date}         what is booked on a date
//	GET /handled/{eventID}   how often an event came
//	GET /faults, PUT /faults {"failTitlesContaining": "word"}
func Register(app *web.App, o HandlerOptions) {
	tally := &Tally{}
	app.Subscribe(event.TaskCreated, tally.Counting(o.Service.TaskCreated))
	app.Subscribe(event.TaskCompleted, tally.Counting(o.Service.TaskCompleted))
	app.Subscribe(event.TaskDeleted, tally.Counting(o.Service.TaskDeleted))

	app.Handle("GET /days/{date}", func(w http.ResponseWriter, r *http.Request) error {
		date, err := time.Parse(time.DateOnly, r.PathValue("date"))
		if err != nil {
			return invalid.NewField("date", r.PathValue("date"), "a date such as 2030-12-24")
		}
		day, err := o.Service.Day(r.Context(), date)
		if err != nil {
			return err
		}
		return web.WriteJSON(w, http.StatusOK, map[string]any{
			"date": dateOf(date), "slotsPerDay": o.Service.slotsPerDay, "bookings": append([]Booking{}, day.Bookings...),
		})
	})
	app.Handle("GET /handled/{eventID}", func(w http.ResponseWriter, r *http.Request) error {
		return web.WriteJSON(w, http.StatusOK, tally.Of(r.PathValue("eventID")))
	})
	if o.Faults == nil {
		return
	}
	type faults struct {
		FailTitlesContaining string `json:"failTitlesContaining"`
	}
	app.Handle("GET /faults", func(w http.ResponseWriter, r *http.Request) error {
		return web.WriteJSON(w, http.StatusOK, faults{o.Faults.Word()})
	})
	app.Handle("PUT /faults", func(w http.ResponseWriter, r *http.Request) error {
		var in faults
		if err := web.ReadJSON(w, r, &in); err != nil {
			return err
		}
		o.Faults.FailTitlesContaining(in.FailTitlesContaining)
		return web.WriteJSON(w, http.StatusOK, in)
	})
}

// Status is the HTTP status of a scheduler error.
func Status(err error) int {
	if errors.Is(err, store.ErrUnavailable) {
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
