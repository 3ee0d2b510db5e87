package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The components that the app works with, as its component files name them.
const (
	storeComponent  = "todo-store"
	pubsubComponent = "todo-pubsub"
)

// errConflict says that a record was not at the version that a write names. Nothing was written.
var errConflict = errors.New("the record was changed by somebody else")

// sidecar reads and writes the app's state and publishes its events.
type sidecar struct {
	client.Client
}

// sidecarAddress returns where the sidecar's gRPC API is, from the environment that every Dapr SDK reads.
func sidecarAddress() string {
	local := net.JoinHostPort("127.0.0.1", cmp.Or(os.Getenv("DAPR_GRPC_PORT"), "50001"))
	return cmp.Or(os.Getenv("DAPR_GRPC_ENDPOINT"), local)
}

// connect waits until the sidecar can be reached, for timeout at most.
func connect(ctx context.Context, timeout time.Duration) (*sidecar, error) {
	client.SetLogger(log.New(io.Discard, "", 0))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		// The SDK gives up after a few seconds of its own, so it is asked again.
		c, err := client.NewClientWithAddressContext(ctx, sidecarAddress())
		switch {
		case err == nil:
			return &sidecar{c}, nil
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return nil, fmt.Errorf("no Dapr sidecar at %s within %s (DAPR_GRPC_ENDPOINT or DAPR_GRPC_PORT says where it is): %w",
				sidecarAddress(), timeout, err)
		}
	}
}

// load reads a record and returns it with its ETag. A record that does not exist is the zero value with no ETag.
func load[T any](ctx context.Context, s *sidecar, key string) (value T, etag string, err error) {
	item, err := s.GetState(ctx, storeComponent, key, nil)
	if err != nil || item.Etag == "" {
		return value, "", err
	}
	if err := json.Unmarshal(item.Value, &value); err != nil {
		return value, "", fmt.Errorf("decode record %q: %w", key, err)
	}
	return value, item.Etag, nil
}

// write replaces one version of a record.
type write struct {
	key   string
	value any
	// etag is the version to replace; without one there must be no record.
	etag string
}

func (w write) item(idempotencyKey string) (*client.SetStateItem, error) {
	value, err := json.Marshal(w.value)
	if err != nil {
		return nil, fmt.Errorf("encode record %q: %w", w.key, err)
	}
	item := &client.SetStateItem{
		Key: w.key, Value: value,
		Metadata: map[string]string{"contentType": "application/json", "idempotencyKey": idempotencyKey},
		Options:  &client.StateOptions{Concurrency: client.StateConcurrencyFirstWrite, Consistency: client.StateConsistencyStrong},
	}
	if w.etag != "" {
		item.Etag = &client.ETag{Value: w.etag}
	}
	return item, nil
}

// save makes a write, or returns errConflict. With the idempotencyKey of a former write, unless it is empty, it changes
// nothing and succeeds.
func (s *sidecar) save(ctx context.Context, idempotencyKey string, w write) error {
	item, err := w.item(idempotencyKey)
	if err != nil {
		return err
	}
	err = s.SaveBulkState(ctx, storeComponent, item)
	if status.Code(err) == codes.Aborted {
		return fmt.Errorf("%w: %w", errConflict, err)
	}
	return err
}

// saveAll makes all of the writes or none, likewise.
func (s *sidecar) saveAll(ctx context.Context, idempotencyKey string, writes ...write) error {
	var operations []*client.StateOperation
	for _, w := range writes {
		item, err := w.item("") // The key is the transaction's.
		if err != nil {
			return err
		}
		operations = append(operations, &client.StateOperation{Type: client.StateOperationTypeUpsert, Item: item})
	}
	err := s.ExecuteStateTransaction(ctx, storeComponent, map[string]string{"idempotencyKey": idempotencyKey}, operations)
	// Dapr does not tell a transaction's conflict from its other failures.
	if status.Code(err) == codes.Internal {
		return fmt.Errorf("%w, or: %w", errConflict, err)
	}
	return err
}

// retry repeats step, which reads, decides and saves, while it ends in errConflict: twelve times at most.
func retry(ctx context.Context, step func() error) error {
	for attempt := 1; ; attempt++ {
		err := step()
		if !errors.Is(err, errConflict) || attempt == 12 {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(rand.N(time.Duration(attempt) * 10 * time.Millisecond)):
		}
	}
}

// publish returns when the broker has the event. After an error it may have it, too: publishing it again is right. A todo
// has at most one event per topic, hence the id.
func (s *sidecar) publish(ctx context.Context, topic string, c content) error {
	id := topic + "." + c.TodoID
	err := s.PublishEvent(ctx, pubsubComponent, topic, c, client.PublishEventWithMetadata(map[string]string{"cloudevent.id": id, "cloudevent.subject": c.TodoID}))
	if err != nil {
		return fmt.Errorf("publish %s: %w", id, err)
	}
	return nil
}
