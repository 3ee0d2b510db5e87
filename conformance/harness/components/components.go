// Package components is what the sidecar of tests and of `make run` has built in. Its build puts this file in the place of the
// package of the same name in Dapr, whose smallest set is Dapr's stable components: 700 packages more, most of them clouds' SDKs,
// which double the time of a build. An app that runs on dapr-bolt needs none of them. mDNS is how sidecars find each other; the
// others are peers that tests and benchmarks compare with.
package components

import (
	"github.com/dapr/components-contrib/nameresolution/mdns"
	pubsubinmemory "github.com/dapr/components-contrib/pubsub/in-memory"
	"github.com/dapr/components-contrib/pubsub/jetstream"
	pubsubredis "github.com/dapr/components-contrib/pubsub/redis"
	"github.com/dapr/components-contrib/state/etcd"
	stateinmemory "github.com/dapr/components-contrib/state/in-memory"
	"github.com/dapr/components-contrib/state/postgresql/v2"
	stateredis "github.com/dapr/components-contrib/state/redis"

	"github.com/dapr/dapr/pkg/components/nameresolution"
	"github.com/dapr/dapr/pkg/components/pubsub"
	"github.com/dapr/dapr/pkg/components/state"
)

func init() {
	nameresolution.DefaultRegistry.RegisterComponent(mdns.NewResolver, "mdns")
	pubsub.DefaultRegistry.RegisterComponent(pubsubinmemory.New, "in-memory")
	pubsub.DefaultRegistry.RegisterComponent(jetstream.NewJetStream, "jetstream")
	pubsub.DefaultRegistry.RegisterComponent(pubsubredis.NewRedisStreams, "redis")
	state.DefaultRegistry.RegisterComponent(stateinmemory.NewInMemoryStateStore, "in-memory")
	state.DefaultRegistry.RegisterComponent(stateredis.NewRedisStateStore, "redis")
	state.DefaultRegistry.RegisterComponent(postgresql.NewPostgreSQLStateStore, "postgresql")
	state.DefaultRegistry.RegisterComponent(etcd.NewEtcdStateStoreV2, "etcd")
}
