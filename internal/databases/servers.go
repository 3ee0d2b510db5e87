package databases

import (
	"context"
	"sync"

	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore/etcdengine"
)

// EtcdServer says how a server of etcd is.
type EtcdServer = etcdengine.Server

// EtcdServers asks every etcd server that sidecars of this process use how it is.
func (m *Manager) EtcdServers(ctx context.Context) []EtcdServer {
	var mu sync.Mutex
	var all []EtcdServer
	seen := map[string]bool{} // several components may name one
	var group sync.WaitGroup
	for _, c := range m.clusters.made() {
		group.Go(func() {
			found := c.Servers(ctx)
			mu.Lock()
			defer mu.Unlock()
			for _, s := range found {
				if !seen[s.Endpoint] {
					seen[s.Endpoint] = true
					all = append(all, s)
				}
			}
		})
	}
	group.Wait()
	return all
}

// Stream is that of a bucket of events on NATS.
type Stream struct {
	Database, Bucket string
	// Servers says by name whether each that has the stream is there. Err means that the stream has no leader.
	Servers map[string]bool
	Err     error
}

// Streams asks for the servers of every stream that sidecars of this process use.
func (m *Manager) Streams(ctx context.Context) []Stream {
	var mu sync.Mutex
	var all []Stream
	seen := map[namespace]bool{}
	var group sync.WaitGroup
	for ns, b := range m.natsBrokers.made() {
		name := namespace{servers.Label("nats", ns.at.Prefix, ns.database), ns.bucket}
		if seen[name] {
			continue // of another cluster, by the same name
		}
		seen[name] = true
		group.Go(func() {
			found, err := b.Servers(ctx)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, Stream{Database: name.database, Bucket: name.bucket, Servers: found, Err: err})
		})
	}
	group.Wait()
	return all
}
