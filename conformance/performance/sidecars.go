package performance

import (
	"context"
	"errors"
	"fmt"
	"net"
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
func (b *bench) sidecars(ctx context.Context) (err error) {
	daprd, err := b.checkout.Daprd(ctx, b.opts.Progress)
	if err != nil {
		return err
	}
	var all env
	defer func() { err = errors.Join(err, all.Close()) }()
	var turns []turn
	startBolt := func(path string) func(*env) (map[string]string, error) {
		return func(e *env) (map[string]string, error) {
			_, err := e.StartBolt(ctx, harness.BoltOptions{Path: path})
			return map[string]string{}, err
		}
	}
	for _, of := range []struct {
		name, kind, missing string
		// start starts what is behind the sidecars, and returns the component's metadata.
		start func(e *env) (map[string]string, error)
	}{
		{peerOurs, "state.bolt", "", startBolt(b.bolt)},
		{peerBase, "state.bolt", b.baseMissing(), startBolt(b.opts.Base)},
		{peerBare, "state.bare", "", func(e *env) (map[string]string, error) {
			_, err := startBare(ctx, e, e.Dir("bare"))
			return map[string]string{}, err
		}},
		{peerRedis, "state.redis", redisMissing(), func(e *env) (map[string]string, error) {
			_, metadata, err := startRedis(ctx, e)
			return metadata, err
		}},
	} {
		if of.missing != "" {
			continue
		}
		e, err := b.newEnv()
		if err != nil {
			return err
		}
		all.onClose(e.Close)
		p, err := openSidecars(ctx, e, daprd, of.name, of.kind, of.start)
		if err == nil {
			err = b.fill(ctx, p, b.fewKeys())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", of.name, err)
		}
		for _, clients := range []int{1, 64} {
			turns = append(turns, turn{Cell{workSidecars, clients, of.name}, p})
		}
	}
	return b.rounds(ctx, turns, b.fewKeys())
}

// openSidecars starts two with the same store.
func openSidecars(ctx context.Context, e *env, daprd, name, kind string, start func(e *env) (map[string]string, error)) (*peer, error) {
	metadata, err := start(e)
	if err != nil {
		return nil, err
	}
	// The prefix makes both sidecars see the same values.
	metadata["keyPrefix"] = "none"
	store := component("store", kind, metadata)
	var each [2]*peer
	for i := range each {
		each[i] = &peer{name: name}
		if err := each[i].useSidecar(ctx, e, daprd, fmt.Sprint("app-", i), e.SocketDir(), store); err != nil {
			return nil, err
		}
	}
	return inTurn(name, each[:]), nil
}

func component(name, kind string, metadata map[string]string) harness.Component {
	c := harness.NewComponent(name, kind)
	for key, value := range metadata {
		c.Set(key, value)
	}
	return c
}

// useSidecar starts one and takes the calls of its API: sets of the component "store", and publishes to the component "pubsub".
func (p *peer) useSidecar(ctx context.Context, e *env, daprd, appID, socketDir string, components ...harness.Component) error {
	resources := e.Dir(appID + "-resources")
	if err := harness.WriteComponents(resources, components...); err != nil {
		return err
	}
	sidecar, err := e.StartDaprd(harness.DaprdOptions{
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
	e.onClose(conn.Close)
	api := runtime.NewDaprClient(conn)
	p.set = func(ctx context.Context, key string, value []byte) error {
		_, err := api.SaveState(ctx, &runtime.SaveStateRequest{
			StoreName: "store", States: []*common.StateItem{{Key: key, Value: value}},
		})
		return err
	}
	p.publish = func(ctx context.Context, topic string, data []byte) error {
		_, err := api.PublishEvent(ctx, &runtime.PublishEventRequest{
			PubsubName: "pubsub", Topic: topic, Data: data, DataContentType: "application/cloudevents+json",
		})
		return err
	}
	return nil
}
