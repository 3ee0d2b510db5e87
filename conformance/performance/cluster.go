package performance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/dapr/components-contrib/pubsub/jetstream"
	redispubsub "github.com/dapr/components-contrib/pubsub/redis"
	"github.com/dapr/components-contrib/state/etcd"
	"github.com/dapr/components-contrib/state/postgresql/v2"
	"github.com/nats-io/nats.go"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// What is measured of components that have their data on three servers each, all on this machine.
const (
	workClusterSet     = "set on three etcd servers"
	workSidecarSet     = "set through a sidecar on three etcd servers"
	workClusterPublish = "publish to three nats-servers"
	workSidecarPublish = "publish through a sidecar to three nats-servers"
)

const (
	peerThree = "three dapr-bolts"
	peerDapr  = "Dapr's own"
)

// cluster measures one dapr-bolt and three beside Dapr's own components on the same servers, what is possible there, and
// others' servers; Dapr's own, and Redis, through sidecars as well.
func (b *bench) cluster(ctx context.Context) (err error) {
	e, err := b.newEnv()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	etcdPath, err := b.checkout.EtcdServer(ctx, b.opts.Progress)
	if err != nil {
		return err
	}
	natsPath, err := b.checkout.NATSServer(ctx, b.opts.Progress)
	if err != nil {
		return err
	}
	daprd, err := b.checkout.Daprd(ctx, b.opts.Progress)
	if err != nil {
		return err
	}
	etcds, err := e.StartEtcd(ctx, harness.ClusterOptions{Path: etcdPath})
	if err != nil {
		return err
	}
	natses, err := e.StartNATS(ctx, harness.ClusterOptions{Path: natsPath})
	if err != nil {
		return err
	}
	store := map[string]string{"engine": "etcd", "endpoints": etcds.Endpoints()}
	broker := map[string]string{"engine": "nats", "url": natses.URL()}
	daprStore := map[string]string{"endpoints": etcds.Endpoints(), "keyPrefixPath": "bench", "tlsEnable": "false"}
	daprBroker := map[string]string{"natsURL": natses.URL()}
	var bolts []*peer
	var socketDirs []string
	for i := range 3 {
		name := fmt.Sprintf("dapr-bolt-%d", i)
		bolt, err := e.StartBolt(ctx, harness.BoltOptions{
			Path: b.bolt, Name: name, DataDir: e.Dir(name), SocketDir: filepath.Join(e.SocketDir(), name),
		})
		if err != nil {
			return err
		}
		p := &peer{name: peerOurs}
		err = p.useSocket(ctx, e, filepath.Join(bolt.SocketDir, "bolt.sock"), maps.Clone(store), maps.Clone(broker))
		if err != nil {
			return err
		}
		bolts, socketDirs = append(bolts, p), append(socketDirs, bolt.SocketDir)
	}
	dapr := &peer{name: peerDapr}
	err = errors.Join(
		addStream(natses.URL(), len(natses.Servers)),
		dapr.useStore(ctx, e, etcd.NewEtcdStateStoreV2(silent), maps.Clone(daprStore)),
		dapr.useBroker(ctx, e, jetstream.NewJetStream(silent), maps.Clone(daprBroker)))
	if err != nil {
		return err
	}
	sidecars := []*peer{{name: peerOurs}, {name: peerDapr}}
	err = errors.Join(
		sidecars[0].useSidecar(ctx, e, daprd, "with-bolt", socketDirs[0], component("store", "state.bolt", store), component("pubsub", "pubsub.bolt", broker)),
		sidecars[1].useSidecar(ctx, e, daprd, "without-bolt", e.Dir("no-sockets"),
			component("store", "state.etcd", daprStore), component("pubsub", "pubsub.jetstream", daprBroker)))
	if err != nil {
		return err
	}
	least := &peer{name: peerBare}
	if err := openBareAt(ctx, e, least, etcds.Endpoints()); err != nil {
		return err
	}
	least.publish = nil // there are no nats-servers behind it
	b.results.Peers[peerBare] = bareSettings
	b.results.Peers[peerThree] = "each behind its Unix socket, called in turn; with duplicates by id, as with one"
	b.results.Peers[peerDapr] = "`state.etcd` and `pubsub.jetstream` (which knows no duplicates) on the same servers, in the benchmark's process or in a sidecar"
	stores, brokers := []*peer{bolts[0], inTurn(peerThree, bolts), dapr, least}, []*peer{bolts[0], inTurn(peerThree, bolts), dapr}
	sidecarStores, sidecarBrokers := slices.Clone(sidecars), slices.Clone(sidecars)
	if missing := postgresMissing(); missing != "" {
		b.miss(peerPostgres, missing)
	} else {
		postgres, behind := &peer{name: peerPostgres}, &peer{name: peerPostgres}
		metadata, err := startPostgres(ctx, e)
		if err != nil {
			return err
		}
		err = errors.Join(
			postgres.useStore(ctx, e, postgresql.NewPostgreSQLStateStore(silent), maps.Clone(metadata)),
			behind.useSidecar(ctx, e, daprd, "with-postgresql", e.Dir("no-sockets"), component("store", "state.postgresql", metadata)))
		if err != nil {
			return err
		}
		stores, sidecarStores = append(stores, postgres), append(sidecarStores, behind)
		b.results.Peers[peerPostgres] = "fsync and synchronous_commit on; one server on 127.0.0.1, called with 64 connections"
	}
	if missing := redisMissing(); missing != "" {
		b.miss(peerRedis, missing)
	} else {
		redis, behind := &peer{name: peerRedis}, &peer{name: peerRedis}
		server, metadata, err := startRedis(ctx, e)
		if err != nil {
			return err
		}
		redis.process = server.Process
		err = errors.Join(
			redis.useBroker(ctx, e, redispubsub.NewRedisStreams(silent), maps.Clone(metadata)),
			behind.useSidecar(ctx, e, daprd, "with-redis", e.Dir("no-sockets"), component("pubsub", "pubsub.redis", metadata)))
		if err != nil {
			return err
		}
		brokers, sidecarBrokers = append(brokers, redis), append(sidecarBrokers, behind)
		b.results.Peers[peerRedis] = redisSettings
	}
	var turns []turn
	for _, of := range []struct {
		work  string
		peers []*peer
	}{
		{workClusterSet, stores},
		{workSidecarSet, sidecarStores},
		{workClusterPublish, brokers},
		{workSidecarPublish, sidecarBrokers},
	} {
		for _, clients := range []int{1, 64} {
			for _, p := range of.peers {
				turns = append(turns, turn{Cell{of.work, clients, p.name}, p})
			}
		}
	}
	return b.rounds(ctx, turns, b.fewKeys())
}

// inTurn is several that do the same work.
func inTurn(name string, all []*peer) *peer {
	var turn atomic.Uint64
	next := func() *peer { return all[turn.Add(1)%uint64(len(all))] }
	return &peer{
		name:    name,
		set:     func(ctx context.Context, key string, value []byte) error { return next().set(ctx, key, value) },
		publish: func(ctx context.Context, topic string, data []byte) error { return next().publish(ctx, topic, data) },
	}
}

// addStream makes the stream for pubsub.jetstream, which must be told of topics in advance.
func addStream(url string, replicas int) error {
	conn, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err == nil {
		_, err = js.AddStream(&nats.StreamConfig{Name: "bench", Subjects: []string{"bench.>"}, Storage: nats.FileStorage, Replicas: replicas})
	}
	return err
}
