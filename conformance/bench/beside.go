package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/dapr/components-contrib/state"
)

// besidePasses is how often everything is measured in a round.
const besidePasses = 3

// heats are the measurements that promises compare, those of one heat with each other.
func heats() [][]Cell {
	heat := func(work string, clients int, peers ...string) []Cell {
		var cells []Cell
		for _, peer := range peers {
			cells = append(cells, besideCell(work, clients, peer))
		}
		return cells
	}
	onBolt, onLog := barePeer(BareBolt), barePeer(BareLog)
	return [][]Cell{
		heat(workSet, headlineClients, ourState, onBolt, onLog, "state.redis", "state.sqlite"),
		append(heat(workGet, headlineClients, ourState), heat(workPing, headlineClients, ourState)...),
		heat(workPublish, headlineClients, ourPubSub, onBolt, onLog, "pubsub.redis", "pubsub.jetstream"),
		heat(workDeliver, headlineClients, ourPubSub, onBolt, onLog, "pubsub.redis"),
		append(heat(workSet, 1, ourState, onBolt, onLog), besideCell(workTwoSyncs, 1, peerDisk), besideCell(workPing, 1, ourState)),
	}
}

// besideCell is one such measurement, of the promises' size if anything is sent at all.
func besideCell(work string, clients int, peer string) Cell {
	cell := Cell{SectionBeside, work, peer, clients, headlineSize}
	if work == workPing || work == workTwoSyncs {
		cell.Size = 0
	}
	return cell
}

// contender is who is measured, by the name of each work that it can do. Running one records it.
type contender map[string]func(ctx context.Context, cell Cell, round int) error

// beside opens all that promises compare at once, and measures what is compared right after each other: the speed of a
// machine that others use, too, changes by half within minutes, and ratios of what was measured minutes apart say little.
func (b *Bench) beside(ctx context.Context, round int) (err error) {
	var worlds []*world
	defer func() {
		for _, w := range slices.Backward(worlds) {
			err = errors.Join(err, w.Close())
		}
	}()
	contenders := map[string]contender{}
	for _, name := range besidePeers() {
		w, err := b.newWorld()
		if err != nil {
			return err
		}
		worlds = append(worlds, w)
		if contenders[name], err = b.contender(ctx, w, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for pass := range besidePasses {
		for _, heat := range heats() {
			// What changes steadily favours nobody.
			if pass%2 == 1 {
				slices.Reverse(heat)
			}
			for _, cell := range heat {
				run := contenders[cell.Peer][cell.Work]
				if run == nil {
					continue
				}
				if err := run(ctx, cell, round*besidePasses+pass); err != nil {
					return err
				}
			}
		}
	}
	return ctx.Err()
}

func besidePeers() []string {
	var names []string
	for _, heat := range heats() {
		for _, cell := range heat {
			if !slices.Contains(names, cell.Peer) {
				names = append(names, cell.Peer)
			}
		}
	}
	return names
}

// contender opens a peer in a world; nil: it is missing.
func (b *Bench) contender(ctx context.Context, w *world, name string) (contender, error) {
	switch name {
	case peerDisk:
		file, err := newDiskFile(filepath.Join(w.Dir(), "disk"))
		if err != nil {
			return nil, err
		}
		w.onClose(file.Close)
		return contender{workTwoSyncs: b.closed(twoSyncs(file))}, nil
	case barePeer(BareLog), barePeer(BareBolt):
		keeper := BareLog
		if name == barePeer(BareBolt) {
			keeper = BareBolt
		}
		store, broker, stop, err := w.startBare(ctx, keeper, filepath.Join(w.Dir(), "bare"))
		if err != nil {
			return nil, err
		}
		w.onClose(stop)
		return b.contend(store, bareChannel{broker}), headlineClient(store).fillOneByOne(ctx)
	}
	if p := named(statePeers(), name); p != nil {
		if !b.present(SectionBeside, name, p.missing) {
			return nil, nil
		}
		store, err := startState(ctx, w, p)
		if err != nil {
			return nil, err
		}
		return b.contend(store, nil), headlineClient(store).fill(ctx)
	}
	p := named(pubsubPeers(), name)
	if !b.present(SectionBeside, name, p.missing) {
		return nil, nil
	}
	broker, err := startPubSub(ctx, w, p)
	if err != nil {
		return nil, err
	}
	return b.contend(nil, w.direct(broker)), nil
}

func named[C any](peers []*peer[C], name string) *peer[C] {
	for _, p := range peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

// contend makes a contender of a store, a channel, or both.
func (b *Bench) contend(store state.Store, over channel) contender {
	c := contender{}
	if store != nil {
		client := headlineClient(store)
		for _, work := range []string{workSet, workGet} {
			c[work] = func(ctx context.Context, cell Cell, round int) error {
				b.measure(ctx, cell, round, client.work(work, cell.Clients))
				return ctx.Err()
			}
		}
		c[workPing] = b.closed(pings(store))
	}
	if over != nil {
		for work, measure := range map[string]func(context.Context, channel, Cell, int) error{workPublish: b.publish, workDeliver: b.deliver} {
			c[work] = func(ctx context.Context, cell Cell, round int) error { return measure(ctx, over, cell, round) }
		}
	}
	return c
}

func (b *Bench) closed(op func(ctx context.Context, client, call int) error) func(context.Context, Cell, int) error {
	return func(ctx context.Context, cell Cell, round int) error {
		b.measure(ctx, cell, round, op)
		return ctx.Err()
	}
}
