package databases

import (
	"cmp"
	"context"
	"slices"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// clusterNamespace names a bucket of a database that is on servers.
type clusterNamespace struct {
	cluster servers.Access
	namespace
}

// StateStoreAt is StateStore for state in a file or on an etcd cluster. The same cluster is connected to once.
func (m *Manager) StateStoreAt(ctx context.Context, p servers.Place) (*statestore.Store, error) {
	if p.Etcd == nil {
		return m.StateStore(ctx, p.Database, p.Bucket)
	}
	ns := clusterNamespace{*p.Etcd, namespace{p.Database, p.Bucket}}
	if err := ns.check(); err != nil {
		return nil, err
	}
	return m.clusterStores.get(ctx, ns)
}

func (m *Manager) openClusterStore(ctx context.Context, ns clusterNamespace) (*statestore.Store, error) {
	cluster, err := m.clusters.get(ctx, ns.cluster)
	if err != nil {
		return nil, err
	}
	engine, err := cluster.Engine(ctx, ns.database, ns.bucket)
	if err != nil {
		return nil, err
	}
	return statestore.New(engine, statestore.Options{
		Clock: m.opts.Clock, Logger: m.logger(ns.namespace), Limits: cluster.Limits(),
	})
}

// openClusterStores lists those that sidecars use.
func (m *Manager) openClusterStores() (list []OpenStore) {
	for ns, s := range m.clusterStores.made() {
		list = append(list, OpenStore{Database: servers.Label("etcd", ns.cluster.Prefix, ns.database), Bucket: ns.bucket, Store: s, servers: ns.cluster.Endpoints})
	}
	slices.SortFunc(list, func(a, b OpenStore) int {
		return cmp.Or(cmp.Compare(a.Database, b.Database), cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.servers, b.servers))
	})
	return list
}
