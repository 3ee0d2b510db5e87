package performance

import (
	"context"
	"net"
	"slices"
	"strconv"

	common "github.com/dapr/dapr/pkg/proto/common/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// workSidecars is what an app feels: a set by the gRPC API of one of two sidecars, in turn.
const workSidecars = "set through two sidecars"

// sidecars measures the peers whose components are built into the sidecar, or lie behind a socket, side by side.
func (b *bench) sidecars(ctx context.Context) error {
	daprd, err := b.checkout.Daprd(ctx)
	if err != nil {
		return err
	}
	bolt := func(path string) func(context.Context, *peer) (map[string]string, error) {
		return func(ctx context.Context, p *peer) (map[string]string, error) {
			_, err := p.StartBolt(ctx, harness.BoltOptions{Path: path})
			return nil, err
		}
	}
	bare := func(ctx context.Context, p *peer) (map[string]string, error) {
		return nil, startBare(ctx, p, p.Dir("bare"))
	}
	// through starts two sidecars before what start starts, which returns the metadata of the store.
	through := func(kind string, start func(context.Context, *peer) (map[string]string, error)) func(context.Context, *peer) error {
		return func(ctx context.Context, p *peer) error {
			metadata, err := start(ctx, p)
			if err != nil {
				return err
			}
			store := component("store", kind, metadata)
			store.Set("keyPrefix", "none") // both see the same values
			var each [2]*peer
			for i := range each {
				each[i] = &peer{Harness: p.Harness, bench: b}
				if err := each[i].useSidecar(ctx, daprd, "app-"+strconv.Itoa(i), p.SocketDir(), store); err != nil {
					return err
				}
			}
			p.inTurn(each[:]...)
			p.process = nil // it is one of several
			return nil
		}
	}
	peers, err := b.open(ctx,
		opener{peerOurs, "", through("state.bolt", bolt(b.bolt))},
		opener{peerBase, b.baseMissing(), through("state.bolt", bolt(b.opts.Base))},
		opener{peerBare, "", through("state.bare", bare)},
		opener{peerRedis, redisMissing(), through("state.redis", startRedis)})
	if err == nil {
		err = b.fill(ctx, peers)
	}
	if err != nil {
		return err
	}
	return b.rounds(ctx, turnsOf(peers, workSidecars, 1, 64))
}

func component(name, kind string, metadata map[string]string) harness.Component {
	c := harness.NewComponent(name, kind)
	for key, value := range metadata {
		c.Set(key, value)
	}
	return c
}

// useSidecar starts one and takes the calls of its API: sets of the component "store", and publishes to the component "pubsub".
func (p *peer) useSidecar(ctx context.Context, daprd, appID, socketDir string, components ...harness.Component) error {
	resources := p.Dir(appID + "-resources")
	if err := harness.WriteComponents(resources, components...); err != nil {
		return err
	}
	sidecar, err := p.StartDaprd(harness.DaprdOptions{
		Path: daprd, AppID: appID, Resources: []string{resources}, SocketDir: socketDir, LogLevel: "warn",
	})
	if err != nil {
		return err
	}
	if err := sidecar.WaitReady(ctx); err != nil {
		return err
	}
	conn, err := grpc.NewClient(net.JoinHostPort("127.0.0.1", strconv.Itoa(sidecar.GRPCPort)), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	p.bench.onClose(conn.Close)
	api := runtime.NewDaprClient(conn)
	has := func(name string) bool {
		return slices.ContainsFunc(components, func(c harness.Component) bool { return c.Metadata.Name == name })
	}
	if has("store") {
		p.set = func(ctx context.Context, key string, value []byte) error {
			_, err := api.SaveState(ctx, &runtime.SaveStateRequest{
				StoreName: "store", States: []*common.StateItem{{Key: key, Value: value}},
			})
			return err
		}
	}
	if has("pubsub") {
		p.publish = func(ctx context.Context, topic string, data []byte) error {
			_, err := api.PublishEvent(ctx, &runtime.PublishEventRequest{
				PubsubName: "pubsub", Topic: topic, Data: data, DataContentType: "application/cloudevents+json",
			})
			return err
		}
	}
	return nil
}
