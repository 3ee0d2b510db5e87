package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/jonboulle/clockwork"
)

const (
	// liveEvery is how often a page is made anew that is open.
	liveEvery = time.Second
	// livePace is how many times as long as it took to make such a page passes before the next is made, of all that are
	// open. So they take one percent of one core at most, whatever they hold.
	livePace = 100
	// maxLive bounds the pages that are kept up to date at once.
	maxLive = 64
	// liveWrite is how long a browser has to take what it is sent.
	liveWrite = 10 * time.Second
)

// live keeps pages up to date that are open.
type live struct {
	clock clockwork.Clock
	// ctx ends all of them.
	ctx    context.Context
	cancel context.CancelFunc
	// turn is held by the one whose page is made; places by each.
	turn, places chan struct{}

	// rested is when the next page may be made; guarded by turn.
	rested time.Time
}

func newLive(clock clockwork.Clock) *live {
	l := &live{clock: clock, turn: make(chan struct{}, 1), places: make(chan struct{}, maxLive)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// stream sends what content returns, whenever that has changed, until the browser leaves: as server-sent events with a
// JSON string each.
func (l *live) stream(w http.ResponseWriter, r *http.Request, content func(context.Context) ([]byte, error)) {
	select {
	case l.places <- struct{}{}:
		defer func() { <-l.places }()
	default:
		http.Error(w, fmt.Sprintf("%d pages are kept up to date already: allowed: that many", maxLive), http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()

	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	if out.SetReadDeadline(time.Time{}) != nil {
		return
	}
	// The page says that it is live, before there is something new.
	if out.Flush() != nil {
		return
	}
	var sent []byte
	for {
		fresh, err := l.make(ctx, content)
		if err != nil {
			return
		}
		if !bytes.Equal(fresh, sent) {
			quoted, err := json.Marshal(string(fresh))
			if err != nil || out.SetWriteDeadline(time.Now().Add(liveWrite)) != nil {
				return
			}
			if _, err := fmt.Fprintf(w, "data: %s\n\n", quoted); err != nil || out.Flush() != nil {
				return
			}
			sent = fresh
		}
		if l.wait(ctx, liveEvery) != nil {
			return
		}
	}
}

// make waits for its turn, and for the rest after the page before.
func (l *live) make(ctx context.Context, content func(context.Context) ([]byte, error)) ([]byte, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := l.wait(ctx, l.rested.Sub(l.clock.Now())); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	began := l.clock.Now()
	fresh, err := content(ctx)
	ended := l.clock.Now()
	l.rested = ended.Add(livePace * ended.Sub(began))
	return fresh, err
}

func (l *live) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := l.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
