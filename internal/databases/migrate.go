package databases

import (
	"context"
	"fmt"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	pubsubengine "github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	stateengine "github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
	"github.com/dapr-bolt/dapr-bolt/statestore/etcdengine"
)

// StateAtRest opens a state bucket to copy from it, or to it. Nobody else may work on it, which is checked as far as can be
// seen: a file that is in use is boltdb.ErrLocked. A file of which nothing is to be copied is not made.
func (m *Manager) StateAtRest(ctx context.Context, p servers.Place, source bool) (statestore.Engine, error) {
	ns := namespace{p.Database, p.Bucket}
	if p.Etcd == nil {
		db, err := m.fileAtRest(ctx, ns, boltdb.KindState, "state", source)
		if err != nil {
			return nil, err
		}
		return stateengine.New(db, p.Bucket)
	}
	if err := ns.check(); err != nil {
		return nil, err
	}
	cluster, err := m.clusters.get(ctx, *p.Etcd)
	if err != nil {
		return nil, err
	}
	engine, err := cluster.Engine(ctx, p.Database, p.Bucket)
	if err != nil {
		return nil, err
	}
	inUse, err := engine.InUse(ctx)
	if err == nil && inUse {
		err = fmt.Errorf("%s: a dapr-bolt works on it, or was killed less than %s ago: stop all that do", p, etcdengine.SweepLeaseTTL)
	}
	return engine, err
}

// EventsAtRest is StateAtRest for events. The caller must close what it returns.
func (m *Manager) EventsAtRest(ctx context.Context, p servers.Place, source bool) (pubsub.Migrator, func(context.Context) error, error) {
	ns := namespace{p.Database, p.Bucket}
	if p.NATS == nil {
		db, err := m.fileAtRest(ctx, ns, boltdb.KindPubSub, "pub/sub", source)
		if err != nil {
			return nil, nil, err
		}
		engine, err := pubsubengine.NewAtRest(ctx, db, p.Bucket)
		return engine, func(context.Context) error { return nil }, err
	}
	if err := ns.check(); err != nil {
		return nil, nil, err
	}
	opts, err := m.natsOptions(natsNamespace{*p.NATS, ns})
	if err != nil {
		return nil, nil, err
	}
	opts.AtRest = true
	broker, err := natsbroker.Open(ctx, opts)
	if err != nil {
		return nil, nil, err
	}
	return broker, broker.Close, nil
}

func (m *Manager) fileAtRest(ctx context.Context, ns namespace, kind, what string, source bool) (*boltdb.DB, error) {
	if source {
		if err := m.exists(ctx, ns, kind, what); err != nil {
			return nil, err
		}
	}
	if err := ns.check(); err != nil {
		return nil, err
	}
	return m.files.get(ctx, ns.database)
}
