package component

import (
	"context"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Backend hands out what the components work on. The same place gets the same store or broker, whoever asks; the Backend
// owns them. An error that matches statestore.ErrInvalidArgument refuses a name for good.
type Backend interface {
	StateStoreAt(ctx context.Context, place servers.Place) (*statestore.Store, error)
	BrokerAt(ctx context.Context, place servers.Place) (pubsub.Service, error)
}
