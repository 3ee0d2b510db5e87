package component

import (
	"context"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Backend hands out what the components work on. The same names get the same store or broker, whoever asks; the Backend
// owns them. An error that matches statestore.ErrInvalidArgument refuses a name for good.
type Backend interface {
	StateStore(ctx context.Context, database, bucket string) (*statestore.Store, error)
	// EtcdStateStore is StateStore on an etcd cluster in place of a file.
	EtcdStateStore(ctx context.Context, cluster servers.Access, database, bucket string) (*statestore.Store, error)
	Broker(ctx context.Context, database, bucket string) (pubsub.Service, error)
	// NATSBroker is Broker on nats-servers in place of a file.
	NATSBroker(ctx context.Context, at servers.NATS, database, bucket string) (pubsub.Service, error)
}
