package performance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/components-contrib/state"
	"github.com/dapr/kit/logger"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// Our own components are measured against the others.
const (
	ourState  = "state.bolt"
	ourPubSub = "pubsub.bolt"
)

// peer is a component in one configuration; C is the interface by which a sidecar calls it.
type peer[C any] struct {
	// name tells peers apart, kind is the component type in Dapr.
	name, kind string
	// settings says what was asked of it beyond its defaults.
	settings string
	// missing says why it cannot be measured here; nil: it can.
	missing func() error
	// serve starts its server, if it has one, and returns the component's metadata.
	serve func(ctx context.Context, w *world) (map[string]string, error)
	// open returns the component, not initialised yet.
	open func(w *world) C
	// direct says why it is not measured through two sidecars; empty: it is.
	direct string
}

// Why a peer is measured without sidecars alone.
const (
	private  = "it reaches only the sidecar it lives in"
	unstable = "Dapr's build of stable components does not carry it"
)

// world is where a peer lives for one part of a round: empty at first, gone afterwards.
type world struct {
	*harness.Harness
	bench *Bench
	bolt  *harness.Bolt
	bares int // how many bare servers were started
	// closers run in reverse order.
	closers []func() error
}

func (b *Bench) newWorld() (*world, error) {
	dir, err := os.MkdirTemp(b.opts.Dir, "world-")
	if err != nil {
		return nil, err
	}
	h, err := harness.New(harness.Options{Dir: dir})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &world{Harness: h, bench: b, closers: []func() error{
		func() error { return os.RemoveAll(dir) },
		h.Close,
	}}, nil
}

func (w *world) onClose(f func() error) { w.closers = append(w.closers, f) }

func (w *world) Close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i]())
	}
	return errors.Join(errs...)
}

func (w *world) folder(name string) (string, error) {
	dir := w.Dir(name)
	return dir, os.MkdirAll(dir, 0o700)
}

// startState opens a state store in a world of its own.
func startState(ctx context.Context, w *world, p *peer[state.Store]) (state.Store, error) {
	metadata, err := p.serve(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	store := p.open(w)
	m := state.Metadata{}
	m.Name, m.Properties = p.name, metadata
	if err := store.Init(ctx, m); err != nil {
		return nil, fmt.Errorf("initialise %s: %w", p.name, err)
	}
	w.onClose(store.Close)
	return store, nil
}

// startPubSub opens a pub/sub in a world of its own.
func startPubSub(ctx context.Context, w *world, p *peer[contribpubsub.PubSub]) (contribpubsub.PubSub, error) {
	metadata, err := p.serve(ctx, w)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	// A sidecar adds its app's id, which names the consumer group.
	metadata["consumerID"] = consumerGroup
	broker := p.open(w)
	m := contribpubsub.Metadata{}
	m.Name, m.Properties = p.name, metadata
	if err := broker.Init(ctx, m); err != nil {
		return nil, fmt.Errorf("initialise %s: %w", p.name, err)
	}
	w.onClose(broker.Close)
	return broker, nil
}

const consumerGroup = "bench"

// silent keeps a peer's log out of the report: what it says when its server goes away is not ours to show.
func silent(name string) logger.Logger {
	l := logger.NewLogger("bench." + name)
	l.SetOutputLevel(logger.FatalLevel)
	return l
}

func (w *world) socket() string { return filepath.Join(w.bolt.SocketDir, "bolt.sock") }
