package performance

import (
	"context"
	"errors"
	"slices"

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

// cluster measures one dapr-bolt and three beside Dapr's own components on the same servers, what is possible there, and
// others' servers; all but the bare one through sidecars as well.
func (b *bench) cluster(ctx context.Context) error {
	daprd, err := b.checkout.Daprd(ctx)
	if err != nil {
		return err
	}
	place, err := b.newPeer("")
	if err != nil {
		return err
	}
	servers, err := place.StartServers(ctx, b.checkout)
	if err != nil {
		return err
	}
	store := map[string]string{"engine": "etcd", "endpoints": servers.Etcd.Endpoints()}
	broker := map[string]string{"engine": "nats", "url": servers.NATS.URL()}
	daprStore := map[string]string{"endpoints": servers.Etcd.Endpoints(), "keyPrefixPath": "bench", "tlsEnable": "false"}
	daprBroker := map[string]string{"natsURL": servers.NATS.URL()}
	bolt := opener{peerOurs, "", func(ctx context.Context, p *peer) error {
		if _, err := p.StartBolt(ctx, harness.BoltOptions{Path: b.bolt}); err != nil {
			return err
		}
		return p.useSocket(ctx, "bolt.sock", store, broker)
	}}
	bolts, err := b.open(ctx, bolt, bolt, bolt)
	if err != nil {
		return err
	}
	var ofPostgres, ofRedis map[string]string // their metadata
	direct, err := b.open(ctx,
		opener{peerThree, "", func(_ context.Context, p *peer) error { p.inTurn(bolts...); return nil }},
		opener{peerDapr, "", func(ctx context.Context, p *peer) error {
			return errors.Join(
				addStream(servers.NATS.URL(), len(servers.NATS.Servers)),
				p.useStore(ctx, etcd.NewEtcdStateStoreV2(silent), daprStore),
				p.useBroker(ctx, jetstream.NewJetStream(silent), daprBroker))
		}},
		opener{peerBare, "", func(ctx context.Context, p *peer) error {
			err := openBareAt(ctx, p, servers.Etcd.Endpoints())
			p.publish = nil // there are no nats-servers behind it
			return err
		}},
		opener{peerPostgres, postgresMissing(), func(ctx context.Context, p *peer) (err error) {
			if ofPostgres, err = startPostgres(ctx, p); err != nil {
				return err
			}
			return p.useStore(ctx, postgresql.NewPostgreSQLStateStore(silent), ofPostgres)
		}},
		opener{peerRedis, redisMissing(), func(ctx context.Context, p *peer) (err error) {
			if ofRedis, err = startRedis(ctx, p); err != nil {
				return err
			}
			return p.useBroker(ctx, redispubsub.NewRedisStreams(silent), ofRedis)
		}})
	if err != nil {
		return err
	}
	direct = append(bolts[:1:1], direct...)
	through := func(name, missing, socketDir string, components ...harness.Component) opener {
		return opener{name, missing, func(ctx context.Context, p *peer) error {
			return p.useSidecar(ctx, daprd, "app", socketDir, components...)
		}}
	}
	behind, err := b.open(ctx,
		through(peerOurs, "", bolts[0].SocketDir(), component("store", "state.bolt", store), component("pubsub", "pubsub.bolt", broker)),
		through(peerDapr, "", "", component("store", "state.etcd", daprStore), component("pubsub", "pubsub.jetstream", daprBroker)),
		through(peerPostgres, postgresMissing(), "", component("store", "state.postgresql", ofPostgres)),
		through(peerRedis, redisMissing(), "", component("pubsub", "pubsub.redis", ofRedis)))
	if err != nil {
		return err
	}
	return b.rounds(ctx, slices.Concat(
		turnsOf(direct, workClusterSet, 1, 64),
		turnsOf(behind, workSidecarSet, 1, 64),
		turnsOf(direct, workClusterPublish, 1, 64),
		turnsOf(behind, workSidecarPublish, 1, 64)))
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
