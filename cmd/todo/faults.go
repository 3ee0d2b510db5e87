package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
)

// faults makes the scheduler's handler fail for some todos, for who wants to watch what happens then.
type faults struct {
	// word makes the handler fail for every title that contains it; nil or empty: for none.
	word atomic.Pointer[string]
}

// inject handles PUT /faults {"failTitlesContaining": "word"}.
func (f *faults) inject(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		FailTitlesContaining string `json:"failTitlesContaining"`
	}
	if err := readJSON(w, r, &in); err != nil {
		return err
	}
	f.word.Store(&in.FailTitlesContaining)
	return writeJSON(w, http.StatusOK, in)
}

// before returns a handler that passes events on to next.
func (f *faults) before(next handler) handler {
	return func(ctx context.Context, d delivery) error {
		word := f.word.Load()
		if word != nil && *word != "" && strings.Contains(strings.ToLower(d.Data.Title), strings.ToLower(*word)) {
			return fmt.Errorf("injected fault: title %q contains %q", d.Data.Title, *word)
		}
		return next(ctx, d)
	}
}
