package performance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/components-contrib/state"
	pubsubadapter "github.com/dapr/dapr/pkg/components/pubsub"
	stateadapter "github.com/dapr/dapr/pkg/components/state"
	"go.etcd.io/bbolt"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// bare measures the bare server with a keeper.
func (b *Bench) bare(ctx context.Context, w *world, keeper BareKeeper, round int) error {
	store, broker, stop, err := w.startBare(ctx, keeper, filepath.Join(w.Dir(), "bare"))
	if err != nil {
		return err
	}
	w.onClose(stop)
	c := headlineClient(store)
	if err := c.fillOneByOne(ctx); err != nil {
		return err
	}
	for _, clients := range b.opts.Clients {
		cell := Cell{Section: SectionLimits, Peer: barePeer(keeper), Clients: clients}
		if keeper == BareLog {
			cell.Work = workPing
			b.measure(ctx, cell, round, pings(store))
		}
		cell.Work, cell.Size = workSet, headlineSize
		b.measureWork(ctx, c, cell, round)
		for _, m := range []struct {
			work string
			run  func(context.Context, channel, Cell, int) error
		}{{workPublish, b.publish}, {workDeliver, b.deliver}} {
			cell.Work = m.work
			if err := m.run(ctx, bareChannel{broker}, cell, round); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func barePeer(keeper BareKeeper) string { return "a bare gRPC server, " + string(keeper) }

const workBareGrowthSet = "set of random keys, a bare gRPC server, bbolt"

// bareGrowth fills a file for the bare server with the keys of each stage, as growth does, and measures sets.
func (b *Bench) bareGrowth(ctx context.Context) error {
	return b.inWorld(func(w *world) error {
		file, filled := filepath.Join(w.Dir(), "grown"), 0
		for i := range b.results.Growth {
			g := &b.results.Growth[i]
			if err := b.fillBare(ctx, file, filled, g.Stage.Keys); err != nil {
				return err
			}
			filled = g.Stage.Keys
			if err := b.measureBareGrowth(ctx, w, file, g); err != nil {
				return err
			}
			if filled == 0 {
				// What was measured is not part of the next stage.
				if err := os.Remove(file); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *Bench) measureBareGrowth(ctx context.Context, w *world, file string, g *Growth) error {
	store, _, stop, err := w.startBare(ctx, BareBolt, file)
	if err != nil {
		return err
	}
	fresh := file + "-empty"
	empty, _, stopEmpty, err := w.startBare(ctx, BareBolt, fresh)
	if err != nil {
		return errors.Join(err, stop())
	}
	g.BareSets = b.grow(ctx, g, workBareGrowthSet, randomSets(store, b.mostKeys()), randomSets(empty, b.mostKeys()))
	return errors.Join(stop(), stopEmpty(), os.Remove(fresh), ctx.Err())
}

func (b *Bench) fillBare(ctx context.Context, file string, from, to int) (err error) {
	db, err := openBareBolt(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.NoSync = true
	c := newStateClient(nil, to, headlineSize)
	err = b.inBatches("keys are in the bare server's file", from, to, func(from, to int) error {
		return db.Update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket(bareBucket)
			bucket.FillPercent = bareFill
			for i := from; i < to; i++ {
				if err := bucket.Put([]byte(keyName(i)), c.value); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	})
	if err != nil {
		return err
	}
	return db.Sync()
}

// bareFill is how full pages of keys are that come in their order, as dapr-bolt leaves them.
const bareFill = 0.9

// bareChannel is the bare server's pub/sub. Its acknowledgements are taken at their word.
type bareChannel struct{ broker contribpubsub.PubSub }

func (c bareChannel) publish(ctx context.Context, topic string, data []byte) error {
	return direct{publisher: c.broker}.publish(ctx, topic, data)
}

// subscribe asks for events until one has come: what is published before the server has seen the subscription never does.
func (c bareChannel) subscribe(ctx context.Context, topic string, handle func([]byte)) error {
	came := make(chan struct{})
	first := sync.OnceFunc(func() { close(came) })
	err := direct{subscriber: c.broker}.subscribe(ctx, topic, func(data []byte) {
		first()
		handle(data)
	})
	for err == nil {
		if err = c.publish(ctx, topic, []byte("probe")); err != nil {
			break
		}
		select {
		case <-came:
			return nil
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return err
}

func (c bareChannel) settle(context.Context, string) error { return nil }

// startBare runs the bare server in a process of its own, until stop.
func (w *world) startBare(ctx context.Context, keeper BareKeeper, file string) (store state.Store, broker contribpubsub.PubSub, stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, nil, err
	}
	w.bares++
	socket := filepath.Join(filepath.Dir(w.SocketDir()), fmt.Sprintf("bare-%d.sock", w.bares))
	process, err := w.StartServer(harness.ServerOptions{
		Name:    BareServerCommand,
		Path:    self,
		Args:    []string{BareServerCommand, socket, string(keeper), file},
		Network: "unix",
		Address: socket,
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if err := process.WaitReady(ctx); err != nil {
		return nil, nil, nil, err
	}
	store, broker = stateadapter.NewGRPCStateStore(silent("bare"), socket), pubsubadapter.NewGRPCPubSub(silent("bare"), socket)
	if err := errors.Join(store.Init(ctx, state.Metadata{}), broker.Init(ctx, contribpubsub.Metadata{})); err != nil {
		return nil, nil, nil, err
	}
	return store, broker, func() error { return errors.Join(store.Close(), broker.Close(), process.Stop()) }, nil
}
