package todo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

// ErrOutboxFull says that too many events wait to be published, so none can be added.
var ErrOutboxFull = errors.New("too many events wait to be published")

// RelayOptions sets a Relay up. Store and Publisher are required.
type RelayOptions struct {
	Store     store.Store
	Publisher event.Publisher
	// Interval is how often the whole outbox is looked through for what is still pending; 5 s if zero.
	Interval time.Duration
	// Clock defaults to the real one.
	Clock clockwork.Clock
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Relay publishes the events of the outbox and then clears them from it. What a crash left behind between the
// two is published again, under the same event id. Several relays may work on one outbox.
type Relay struct {
	store     store.Store
	publisher event.Publisher
	interval  time.Duration
	clock     clockwork.Clock
	logger    *slog.Logger

	mu    sync.Mutex
	dirty [shards]bool
	woken chan struct{}
}

// NewRelay makes a Relay; it publishes while Run runs.
func NewRelay(o RelayOptions) *Relay {
	if o.Interval == 0 {
		o.Interval = 5 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Relay{store: o.Store, publisher: o.Publisher, interval: o.Interval, clock: o.Clock, logger: o.Logger,
		woken: make(chan struct{}, 1)}
}

// Run publishes what is pending: at once what a former run left, then what comes, and again every interval what
// could not be published. It returns when ctx ends.
func (r *Relay) Run(ctx context.Context) {
	ticker := r.clock.NewTicker(r.interval)
	defer ticker.Stop()
	all := [shards]bool{}
	for shard := range all {
		all[shard] = true
	}
	r.flush(ctx, all)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.Chan():
			r.flush(ctx, all)
		case <-r.woken:
			r.mu.Lock()
			dirty := r.dirty
			r.dirty = [shards]bool{}
			r.mu.Unlock()
			r.flush(ctx, dirty)
		}
	}
}

// enqueue returns the write that puts an event into the outbox; it belongs into the change that the event tells of.
func (r *Relay) enqueue(ctx context.Context, e event.Event) (store.Write, error) {
	key := outboxKey(shardOf(e.TodoID))
	box, etag, err := store.Load[outbox](ctx, r.store, key)
	if err != nil {
		return store.Write{}, err
	}
	if len(box.Events) >= maxPendingEvents {
		return store.Write{}, fmt.Errorf("%w: %s holds %d, at most %d are allowed", ErrOutboxFull, key, len(box.Events), maxPendingEvents)
	}
	box.Events = append(box.Events, e)
	return store.Write{Key: key, Value: box, ETag: etag}, nil
}

// wake says that there may be something to publish about a todo. It never waits.
func (r *Relay) wake(id string) {
	r.mu.Lock()
	r.dirty[shardOf(id)] = true
	r.mu.Unlock()
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

func (r *Relay) flush(ctx context.Context, dirty [shards]bool) {
	var keys []string
	for shard, is := range dirty {
		if is {
			keys = append(keys, outboxKey(shard))
		}
	}
	entries, err := r.store.GetMany(ctx, keys)
	if err == nil {
		for key, entry := range entries {
			err = errors.Join(err, r.flushBox(ctx, key, entry))
		}
	}
	if err != nil && ctx.Err() == nil {
		r.logger.WarnContext(ctx, "Events wait to be published", "error", err, "retryIn", r.interval)
	}
}

// flushBox publishes in order and stops at the first failure, so that a todo's events are not turned round.
func (r *Relay) flushBox(ctx context.Context, key string, entry store.Entry) error {
	box, err := store.Decode[outbox](key, entry)
	if err != nil {
		return err
	}
	published := map[string]bool{}
	for _, e := range box.Events {
		if err = r.publisher.Publish(ctx, e); err != nil {
			err = fmt.Errorf("publish %s: %w", e.ID, err)
			break
		}
		published[e.ID] = true
		r.logger.InfoContext(ctx, "Event published", "event", e.ID, "topic", e.Topic, "todo", e.TodoID)
	}
	if len(published) == 0 {
		return err
	}
	return errors.Join(err, r.clear(ctx, key, published))
}

func (r *Relay) clear(ctx context.Context, key string, published map[string]bool) error {
	err := store.Retry(ctx, func(ctx context.Context) error {
		box, etag, err := store.Load[outbox](ctx, r.store, key)
		if err != nil {
			return err
		}
		before := len(box.Events)
		box.Events = slices.DeleteFunc(box.Events, func(e event.Event) bool { return published[e.ID] })
		if len(box.Events) == before {
			return nil
		}
		return r.store.Apply(ctx, store.Change{Writes: []store.Write{{Key: key, Value: box, ETag: etag}}})
	})
	if err != nil {
		return fmt.Errorf("clear %s: %w", key, err)
	}
	return nil
}
