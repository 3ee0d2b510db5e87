package e2e

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const seePoll = 25 * time.Millisecond

// see asks look until it is satisfied, and otherwise reports what it saw last.
func see(ctx context.Context, expected string, look func(context.Context) (saw string, ok bool, err error)) error {
	limited, cancel := context.WithTimeout(ctx, seeTimeout)
	defer cancel()
	poll := time.NewTicker(seePoll)
	defer poll.Stop()
	last := "nothing yet"
	for {
		saw, ok, err := look(limited)
		switch {
		case ok && err == nil:
			return nil
		case limited.Err() != nil: // an error now says only that the time is up
		case err != nil:
			last = err.Error()
		default:
			last = saw
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limited.Done():
			return fmt.Errorf("expected %s within %s; saw %s", expected, seeTimeout, last)
		case <-poll.C:
		}
	}
}

// mismatch is the error of something that was looked at once.
func mismatch(expected, saw any) error {
	return fmt.Errorf("expected %v; saw %v", expected, saw)
}

// oneLine makes text that may hold line ends fit into a line.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
