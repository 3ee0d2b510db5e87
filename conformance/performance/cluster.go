package performance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/components-contrib/pubsub/jetstream"
	"github.com/dapr/components-contrib/state/etcd"
	"github.com/nats-io/nats.go"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// What is measured of components that have their data on three servers each, all on this machine.
const (
	workClusterSet     = "set on three etcd servers"
	workClusterPublish = "publish to three nats-servers"
)

const (
	peerThree = "three dapr-bolts"
	peerDapr  = "Dapr's own"
)

// cluster measures one dapr-bolt and three beside Dapr's own components on the same servers.
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
	etcds, err := e.StartEtcd(ctx, harness.ClusterOptions{Path: etcdPath})
	if err != nil {
		return err
	}
	natses, err := e.StartNATS(ctx, harness.ClusterOptions{Path: natsPath})
	if err != nil {
		return err
	}
	var bolts []*peer
	for i := range 3 {
		name := fmt.Sprintf("dapr-bolt-%d", i)
		bolt, err := e.StartBolt(ctx, harness.BoltOptions{
			Path: b.bolt, Name: name, DataDir: e.Dir(name), SocketDir: filepath.Join(e.SocketDir(), name),
		})
		if err != nil {
			return err
		}
		p := &peer{name: peerOurs}
		err = p.useSocket(ctx, e, filepath.Join(bolt.SocketDir, "bolt.sock"),
			map[string]string{"engine": "etcd", "endpoints": etcds.Endpoints()}, map[string]string{"engine": "nats", "url": natses.URL()})
		if err != nil {
			return err
		}
		bolts = append(bolts, p)
	}
	peers := []*peer{bolts[0], inTurn(peerThree, bolts), {name: peerDapr}}
	if err := peers[2].useDapr(ctx, e, etcds, natses); err != nil {
		return err
	}
	b.results.Peers[peerThree] = "each behind its Unix socket, called in turn; with duplicates by id, as with one"
	b.results.Peers[peerDapr] = "`state.etcd` and `pubsub.jetstream` (which knows no duplicates) on the same servers, in the benchmark's process"
	var turns []turn
	for _, work := range []string{workClusterSet, workClusterPublish} {
		for _, clients := range []int{1, 64} {
			for _, p := range peers {
				turns = append(turns, turn{Cell{work, clients, p.name}, p})
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

// useDapr takes the calls of Dapr's own components.
func (p *peer) useDapr(ctx context.Context, e *env, etcds *harness.Etcd, natses *harness.NATS) error {
	err := p.useStore(ctx, e, etcd.NewEtcdStateStoreV2(silent), map[string]string{
		"endpoints": etcds.Endpoints(), "keyPrefixPath": "bench", "tlsEnable": "false",
	})
	if err != nil {
		return err
	}
	if err := addStream(natses.URL(), len(natses.Servers)); err != nil {
		return err
	}
	var broker contribpubsub.PubSub = jetstream.NewJetStream(silent)
	return p.useBroker(ctx, e, broker, map[string]string{"natsURL": natses.URL()})
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
