// Package admin lets people look into a running process and mend things: dead letters, topics, and backups over a Unix
// socket, health and metrics over HTTP, and the client that the command line uses.
package admin

import (
	"context"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Broker is what the admin socket asks of a namespace of topics; *pubsub.Broker has it.
type Broker interface {
	DeadLetters(ctx context.Context, filter pubsub.DeadLetterFilter) ([]pubsub.DeadLetter, error)
	DeadLetter(ctx context.Context, id uint64) (pubsub.DeadLetter, error)
	Redrive(ctx context.Context, ids []uint64) ([]pubsub.DeadLetter, error)
	Purge(ctx context.Context, ids []uint64) (int, error)
	Stats(ctx context.Context) ([]pubsub.TopicStats, error)
	RemoveGroup(ctx context.Context, topic, group string) error
}

var _ Broker = (*pubsub.Broker)(nil)

// Namespace is a broker, and where its topics are.
type Namespace struct {
	Database, Bucket string
	Broker           Broker
}

// Backend is what the admin socket and the metrics look into. Its methods may be called from any goroutine.
type Backend interface {
	// Broker returns the topics of a namespace that exists. What does not is an error that matches fs.ErrNotExist.
	Broker(ctx context.Context, database, bucket string) (Broker, error)
	// Namespaces lists what the data directory holds. The error says what is missing from the list.
	Namespaces(ctx context.Context) ([]Namespace, error)
	// Databases lists the files that are open.
	Databases() ([]databases.Database, error)
	// Backup copies a database to a new file at an absolute path.
	Backup(ctx context.Context, database, path string) error
}

// ForManager returns the Backend of a data directory.
func ForManager(m *databases.Manager) Backend { return managed{m} }

type managed struct{ *databases.Manager }

func (m managed) Broker(ctx context.Context, database, bucket string) (Broker, error) {
	b, err := m.ExistingBroker(ctx, database, bucket)
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (m managed) Namespaces(ctx context.Context) ([]Namespace, error) {
	open, err := m.Brokers(ctx)
	list := make([]Namespace, len(open))
	for i, b := range open {
		list[i] = Namespace{Database: b.Database, Bucket: b.Bucket, Broker: b.Broker}
	}
	return list, err
}
