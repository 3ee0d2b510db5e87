package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// demo stands before the scheduler's handlers, for who wants to watch them: it counts how often an event comes, and can
// make them fail for some todos. An app needs nothing of this.
type demo struct {
	mu     sync.Mutex
	counts map[string]count
	// fault is the word that makes a title fail; empty: none does.
	fault string
}

// count is how often one event came, and how often its handler took it without an error.
type count struct {
	Deliveries int `json:"deliveries"`
	Handled    int `json:"count"`
}

// maxCounted bounds the memory of the counts, which begin again after so many events.
const maxCounted = 10_000

// register adds the routes of the demonstration:
//
//	GET /handled/{eventID}   how often an event came
//	PUT /faults              {"failTitlesContaining": "word"}, if that is allowed
func (d *demo) register(to *server, allowFaults bool) {
	to.handle("GET /handled/{eventID}", func(w http.ResponseWriter, r *http.Request) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		return writeJSON(w, http.StatusOK, d.counts[r.PathValue("eventID")])
	})
	if allowFaults {
		to.handle("PUT /faults", d.injectFault)
	}
}

func (d *demo) injectFault(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		FailTitlesContaining string `json:"failTitlesContaining"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	d.mu.Lock()
	d.fault = in.FailTitlesContaining
	d.mu.Unlock()
	return writeJSON(w, http.StatusOK, in)
}

// before returns a handler that passes events on to next.
func (d *demo) before(next handler) handler {
	return func(ctx context.Context, e delivery) error {
		if fault := d.add(e.ID, count{Deliveries: 1}); fault != "" && strings.Contains(strings.ToLower(e.Data.Title), strings.ToLower(fault)) {
			return fmt.Errorf("injected fault: title %q contains %q", e.Data.Title, fault)
		}
		if err := next(ctx, e); err != nil {
			return err
		}
		d.add(e.ID, count{Handled: 1})
		return nil
	}
}

func (d *demo) add(eventID string, more count) (fault string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil || len(d.counts) == maxCounted {
		d.counts = map[string]count{}
	}
	c := d.counts[eventID]
	d.counts[eventID] = count{c.Deliveries + more.Deliveries, c.Handled + more.Handled}
	return d.fault
}
