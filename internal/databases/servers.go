package databases

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/dapr-bolt/dapr-bolt/statestore/etcdengine"
)

// EtcdServer says how a server of etcd is.
type EtcdServer = etcdengine.Server

// Stream is that of a bucket of events on NATS.
type Stream struct {
	Database, Bucket string
	// Servers says by name whether each that has the stream is there. Err means that the stream has no leader.
	Servers map[string]bool
	Err     error
}

// Health is whether what sidecars of this process use can be read and written.
type Health struct {
	// Etcd has every server once, though several components may name it, and Streams every stream by its name.
	Etcd    []EtcdServer
	Streams []Stream
	// Err says what is wrong with each file that cannot be written and each cluster that does not serve, or is nil.
	Err error
}

// Health asks every server how it is, all at once, and every open file.
func (m *Manager) Health(ctx context.Context) Health {
	files := m.files.made()
	if len(files) == 0 {
		return Health{Err: errors.New("no database is open")}
	}
	var h Health
	var mu sync.Mutex
	streams, endpoints := map[namespace]bool{}, map[string]bool{} // that were seen
	var asking sync.WaitGroup
	for ns, b := range m.natsBrokers.made() {
		asking.Go(func() {
			found, err := b.Servers(ctx)
			mu.Lock()
			defer mu.Unlock()
			s := Stream{Database: ns.label(), Bucket: ns.bucket, Servers: found, Err: err}
			if err != nil {
				h.Err = errors.Join(h.Err, fmt.Errorf("database %s, bucket %s: %w", s.Database, s.Bucket, err))
			}
			if name := (namespace{s.Database, s.Bucket}); !streams[name] { // else it is of another cluster, by the same name
				streams[name] = true
				h.Streams = append(h.Streams, s)
			}
		})
	}
	for _, c := range m.clusters.made() {
		asking.Go(func() {
			found, err := c.Health(ctx)
			mu.Lock()
			defer mu.Unlock()
			h.Err = errors.Join(h.Err, err)
			for _, s := range found {
				if !endpoints[s.Endpoint] {
					endpoints[s.Endpoint] = true
					h.Etcd = append(h.Etcd, s)
				}
			}
		})
	}
	asking.Wait()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := files[name].Ready(ctx); err != nil {
			h.Err = errors.Join(h.Err, fmt.Errorf("database %s: %w", name, err))
		}
	}
	return h
}
