// Package sidecar reaches state and events through the Dapr sidecar next to the process.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/dapr/go-sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/event"
	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/store"
)

// The components that the app works with, as its component files name them.
const (
	StateStore = "todo-store"
	PubSub     = "todo-pubsub"
)

// callTimeout bounds one call, so that a sidecar that hangs does not hold up what waits behind it.
const callTimeout = 10 * time.Second

var errNotReached = errors.New("the Dapr sidecar has not been reached yet")

// Sidecar is a store.Store and an event.Publisher. Until Connect has succeeded its calls fail with
// store.ErrUnavailable.
type Sidecar struct {
	client atomic.Pointer[client.Client]
}

// Address is where the sidecar's gRPC API is, from the environment that every Dapr SDK reads.
func Address() string {
	if endpoint := os.Getenv("DAPR_GRPC_ENDPOINT"); endpoint != "" {
		return endpoint
	}
	port := os.Getenv("DAPR_GRPC_PORT")
	if port == "" {
		port = "50001"
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// Connect waits until the sidecar answers at the address, for timeout at most. The app must be listening by
// then: a sidecar waits for its app's port.
func (s *Sidecar) Connect(ctx context.Context, address string, timeout time.Duration) error {
	client.SetLogger(log.New(io.Discard, "", 0))
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		// The SDK gives up after a few seconds of its own, so it is asked again.
		c, err := client.NewClientWithAddressContext(waiting, address)
		switch {
		case err == nil:
			s.client.Store(&c)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case waiting.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return fmt.Errorf("no Dapr sidecar at %s within %s (DAPR_GRPC_ENDPOINT or DAPR_GRPC_PORT says where it is): %w", address, timeout, err)
		}
	}
}

// Ready returns why the sidecar cannot be used now, nil if it can.
func (s *Sidecar) Ready() error {
	c := s.client.Load()
	if c == nil {
		return errNotReached
	}
	switch state := (*c).GrpcClientConn().GetState(); state {
	case connectivity.Ready, connectivity.Idle:
		return nil
	default:
		return fmt.Errorf("the connection to the Dapr sidecar is in state %s", state)
	}
}

// Close closes the connection, after the last call has ended.
func (s *Sidecar) Close() {
	if c := s.client.Load(); c != nil {
		(*c).Close()
	}
}

// Get implements store.Store.
func (s *Sidecar) Get(ctx context.Context, key string) (entry store.Entry, err error) {
	err = s.call(ctx, "get "+key, func(ctx context.Context, c client.Client) error {
		item, err := c.GetState(ctx, StateStore, key, nil)
		if err == nil {
			entry = store.Entry{Value: item.Value, ETag: item.Etag}
		}
		return err
	})
	return entry, err
}

// GetMany implements store.Store.
func (s *Sidecar) GetMany(ctx context.Context, keys []string) (map[string]store.Entry, error) {
	found := map[string]store.Entry{}
	if len(keys) == 0 {
		return found, nil
	}
	err := s.call(ctx, fmt.Sprintf("get %d records", len(keys)), func(ctx context.Context, c client.Client) error {
		items, err := c.GetBulkState(ctx, StateStore, keys, nil, 10)
		for _, item := range items {
			switch {
			case item.Error != "":
				err = errors.Join(err, fmt.Errorf("%s: %s", item.Key, item.Error))
			case item.Etag != "":
				found[item.Key] = store.Entry{Value: item.Value, ETag: item.Etag}
			}
		}
		return err
	})
	return found, err
}

// Apply implements store.Store.
func (s *Sidecar) Apply(ctx context.Context, change store.Change) error {
	operations := make([]*client.StateOperation, len(change.Writes))
	for i, w := range change.Writes {
		operation, err := encode(w)
		if err != nil {
			return err
		}
		operations[i] = operation
	}
	metadata := map[string]string{}
	if change.IdempotencyKey != "" {
		metadata["idempotencyKey"] = change.IdempotencyKey
	}
	return s.call(ctx, "write "+change.Writes[0].Key, func(ctx context.Context, c client.Client) error {
		if len(operations) == 1 {
			return applyOne(ctx, c, operations[0], metadata)
		}
		err := c.ExecuteStateTransaction(ctx, StateStore, metadata, operations)
		if status.Code(err) != codes.Internal {
			return err
		}
		// A failed transaction comes as an internal error whatever its cause: what the records are at now tells
		// a conflict from the rest.
		for _, w := range change.Writes {
			if item, readErr := c.GetState(ctx, StateStore, w.Key, nil); readErr == nil && item.Etag != w.ETag {
				return fmt.Errorf("%w: %s is at version %q, not %q: %w", store.ErrConflict, w.Key, item.Etag, w.ETag, err)
			}
		}
		return err
	})
}

func applyOne(ctx context.Context, c client.Client, o *client.StateOperation, metadata map[string]string) error {
	maps.Copy(o.Item.Metadata, metadata)
	var err error
	if o.Type == client.StateOperationTypeDelete {
		err = c.DeleteStateWithETag(ctx, StateStore, o.Item.Key, o.Item.Etag, o.Item.Metadata, o.Item.Options)
	} else {
		err = c.SaveBulkState(ctx, StateStore, o.Item)
	}
	if status.Code(err) == codes.Aborted {
		return fmt.Errorf("%w: %w", store.ErrConflict, err)
	}
	return err
}

func encode(w store.Write) (*client.StateOperation, error) {
	item := &client.SetStateItem{
		Key:      w.Key,
		Metadata: map[string]string{},
		// First write wins: with an ETag it must still be that one, without one there must be no record.
		Options: &client.StateOptions{
			Concurrency: client.StateConcurrencyFirstWrite,
			Consistency: client.StateConsistencyStrong,
		},
	}
	if w.ETag != "" {
		item.Etag = &client.ETag{Value: w.ETag}
	}
	if w.TTL > 0 {
		item.Metadata["ttlInSeconds"] = strconv.Itoa(int(w.TTL / time.Second))
	}
	if w.Value == nil {
		return &client.StateOperation{Type: client.StateOperationTypeDelete, Item: item}, nil
	}
	var err error
	if item.Value, err = store.Encode(w); err != nil {
		return nil, err
	}
	item.Metadata["contentType"] = "application/json"
	return &client.StateOperation{Type: client.StateOperationTypeUpsert, Item: item}, nil
}

// Publish implements event.Publisher.
func (s *Sidecar) Publish(ctx context.Context, e event.Event) error {
	return s.call(ctx, "publish "+e.ID, func(ctx context.Context, c client.Client) error {
		return c.PublishEvent(ctx, PubSub, e.Topic, []byte(e.Data),
			client.PublishEventWithContentType("application/json"),
			client.PublishEventWithMetadata(map[string]string{"cloudevent.id": e.ID, "cloudevent.subject": e.TodoID}))
	})
}

func (s *Sidecar) call(ctx context.Context, what string, do func(ctx context.Context, c client.Client) error) error {
	c := s.client.Load()
	if c == nil {
		return fmt.Errorf("%s: %w: %w", what, store.ErrUnavailable, errNotReached)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := do(ctx, *c)
	if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
