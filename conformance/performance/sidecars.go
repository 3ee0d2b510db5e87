package performance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"

	common "github.com/dapr/dapr/pkg/proto/common/v1"
	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	sidecarComponent = "peer"
	publisherApp     = "publisher"
	// sidecarTopics is how many topics the app subscribes to: one for each measurement of a world.
	sidecarTopics = 3
)

// sidecarClients are fewer than without sidecars: these, and the app, want the same cores.
var sidecarClients = []int{1, headlineClients}

// sidecars measures what an app feels: calls of a sidecar's gRPC API, and deliveries to an HTTP endpoint by another
// sidecar.
func (b *Bench) sidecars(ctx context.Context, round int) error {
	daprd, err := b.checkout.Daprd(ctx, b.opts.Progress)
	if err != nil {
		return err
	}
	for _, p := range statePeers() {
		err := b.behindSidecars(p.name, p.direct, p.missing, func(w *world) error {
			metadata, err := p.serve(ctx, w)
			if err != nil {
				return err
			}
			pair, err := w.startPair(ctx, daprd, p.kind, metadata, nil)
			if err != nil {
				return err
			}
			c := newStateClient(pair, keysOf(headlineSize), headlineSize)
			if err := c.fill(ctx); err != nil {
				return fmt.Errorf("fill in: %w", err)
			}
			for _, work := range []string{workSet, workGet} {
				for _, clients := range sidecarClients {
					b.measureWork(ctx, c, Cell{Section: SectionSidecars, Work: work, Peer: p.name, Clients: clients, Size: headlineSize}, round)
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	for _, p := range pubsubPeers() {
		err := b.behindSidecars(p.name, p.direct, p.missing, func(w *world) error {
			metadata, err := p.serve(ctx, w)
			if err != nil {
				return err
			}
			app, err := startApp(sidecarTopics)
			if err != nil {
				return err
			}
			w.onClose(app.Close)
			pair, err := w.startPair(ctx, daprd, p.kind, metadata, app)
			if err != nil {
				return err
			}
			return b.measurePair(ctx, pair, p.name, round)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// behindSidecars measures a peer in a world of its own, or notes why it does not.
func (b *Bench) behindSidecars(name, direct string, missing func() error, measure func(w *world) error) error {
	if direct != "" {
		b.miss(SectionSidecars, name, errors.New(direct))
		return nil
	}
	if !b.present(SectionSidecars, name, missing) {
		return nil
	}
	if err := b.inWorld(measure); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (b *Bench) measurePair(ctx context.Context, pair *sidecarPair, name string, round int) error {
	cell := Cell{Section: SectionSidecars, Work: workDeliver, Peer: name, Size: headlineSize}
	for _, cell.Clients = range sidecarClients {
		if err := b.deliver(ctx, pair, cell, round); err != nil {
			return err
		}
	}
	cell.Work, cell.Clients = workSteady, 1
	return b.steady(ctx, pair, cell, round)
}

// sidecarPair is two sidecars with the same component. It is a keyValues, whose calls go to both in turn, and a channel
// from the first to the app of the second.
type sidecarPair struct {
	apis  []runtime.DaprClient
	turn  atomic.Uint64
	app   *app
	world *world
}

// startPair starts the sidecars, the second one when the first is ready: two that make SQLite's file at once may both
// find it locked. app is the second one's, or nil.
func (w *world) startPair(ctx context.Context, daprd, kind string, metadata map[string]string, app *app) (*sidecarPair, error) {
	// The prefix makes both sidecars see the same values.
	component := harness.NewComponent(sidecarComponent, kind, "keyPrefix", "none")
	for key, value := range metadata {
		component.Set(key, value)
	}
	resources := w.Dir("resources")
	if err := harness.WriteComponents(resources, component); err != nil {
		return nil, err
	}
	pair := &sidecarPair{app: app, world: w}
	for _, id := range []string{publisherApp, consumerGroup} {
		opts := harness.DaprdOptions{Path: daprd, AppID: id, Resources: []string{resources}, LogLevel: "warn"}
		if app != nil && id == consumerGroup {
			opts.AppPort = app.port
		}
		sidecar, err := w.StartDaprd(opts)
		if err != nil {
			return nil, err
		}
		if err := sidecar.WaitReady(ctx); err != nil {
			return nil, err
		}
		conn, err := grpc.NewClient(net.JoinHostPort("127.0.0.1", strconv.Itoa(sidecar.GRPCPort)), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, err
		}
		w.onClose(conn.Close)
		pair.apis = append(pair.apis, runtime.NewDaprClient(conn))
	}
	return pair, nil
}

func (p *sidecarPair) api() runtime.DaprClient {
	return p.apis[p.turn.Add(1)%uint64(len(p.apis))]
}

func (p *sidecarPair) set(ctx context.Context, key string, value []byte) error {
	_, err := p.api().SaveState(ctx, &runtime.SaveStateRequest{
		StoreName: sidecarComponent,
		States:    []*common.StateItem{{Key: key, Value: value}},
	})
	return err
}

func (p *sidecarPair) get(ctx context.Context, key string) ([]byte, error) {
	r, err := p.api().GetState(ctx, &runtime.GetStateRequest{StoreName: sidecarComponent, Key: key})
	return r.GetData(), err
}

func (p *sidecarPair) transact(ctx context.Context, keys []string, value []byte) error {
	req := &runtime.ExecuteStateTransactionRequest{StoreName: sidecarComponent}
	for _, key := range keys {
		req.Operations = append(req.Operations, &runtime.TransactionalStateOperation{
			OperationType: "upsert",
			Request:       &common.StateItem{Key: key, Value: value},
		})
	}
	_, err := p.api().ExecuteStateTransaction(ctx, req)
	return err
}

func (p *sidecarPair) publish(ctx context.Context, topic string, data []byte) error {
	_, err := p.apis[0].PublishEvent(ctx, &runtime.PublishEventRequest{
		PubsubName:      sidecarComponent,
		Topic:           p.app.topic(topic),
		Data:            data,
		DataContentType: "application/cloudevents+json",
	})
	return err
}

func (p *sidecarPair) subscribe(_ context.Context, topic string, handle func([]byte)) error {
	return p.app.assign(topic, handle)
}

func (p *sidecarPair) settle(ctx context.Context, topic string) error {
	if p.world.bolt == nil {
		return nil
	}
	return p.world.settled(ctx, p.app.topic(topic))
}
