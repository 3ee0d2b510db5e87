package performance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/dapr/components-contrib/state"
)

const (
	// besidePasses is how often everything is measured in a round.
	besidePasses = 3
	// shortTurns is into how many turns a measurement of quick calls is divided.
	shortTurns = 4
)

// heat is what promises compare with each other. In a pass, its cells are measured in turn, each a few times for its part
// of the duration: the shorter the turns, the less a machine's speed changes between them. Who takes long for a call, or
// leaves calls behind that take long, gets one turn.
type heat struct {
	cells []Cell
	turns int
}

func heats() []heat {
	cells := func(work string, clients int, peers ...string) []Cell {
		var of []Cell
		for _, peer := range peers {
			of = append(of, besideCell(work, clients, peer))
		}
		return of
	}
	onBolt, onLog := barePeer(BareBolt), barePeer(BareLog)
	return []heat{
		{cells(workSet, headlineClients, ourState, onBolt, onLog, "state.redis", "state.sqlite"), 1},
		{append(cells(workGet, headlineClients, ourState, onBolt), cells(workPing, headlineClients, ourState, onBolt)...), shortTurns},
		{cells(workPublish, headlineClients, ourPubSub, onBolt, onLog, "pubsub.redis", "pubsub.jetstream"), 1},
		{cells(workDeliver, headlineClients, ourPubSub, onBolt, onLog, "pubsub.redis"), 1},
		{append(cells(workSet, 1, ourState, onBolt, onLog), besideCell(workTwoSyncs, 1, peerDisk), besideCell(workPing, 1, ourState)), shortTurns},
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

// contender is who is measured, by the name of each work that it can do.
type contender struct {
	// loops are calls that a number of clients make again and again.
	loops map[string]func(clients int) operation
	// runs measure and record by themselves.
	runs map[string]func(ctx context.Context, cell Cell, round int) error
}

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
				slices.Reverse(heat.cells)
			}
			if err := b.heat(ctx, heat, contenders, round*besidePasses+pass); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (b *Bench) heat(ctx context.Context, h heat, contenders map[string]contender, pass int) error {
	totals := make([]outcome, len(h.cells))
	turns := time.Duration(h.turns)
	for range h.turns {
		for i, cell := range h.cells {
			c := contenders[cell.Peer]
			if loop := c.loops[cell.Work]; loop != nil {
				o := closedLoop(ctx, cell.Clients, b.opts.WarmUp/turns, b.opts.Duration/turns, loop(cell.Clients))
				totals[i].add(&o)
			} else if run := c.runs[cell.Work]; run != nil {
				if err := run(ctx, cell, pass); err != nil {
					return err
				}
			}
		}
	}
	for i, cell := range h.cells {
		if totals[i].elapsed > 0 {
			b.record(totals[i].sample(cell, pass))
		}
	}
	return ctx.Err()
}

func besidePeers() []string {
	var names []string
	for _, heat := range heats() {
		for _, cell := range heat.cells {
			if !slices.Contains(names, cell.Peer) {
				names = append(names, cell.Peer)
			}
		}
	}
	return names
}

// contender opens a peer in a world. One that is missing can do nothing.
func (b *Bench) contender(ctx context.Context, w *world, name string) (contender, error) {
	switch name {
	case peerDisk:
		file, err := newDiskFile(filepath.Join(w.Dir(), "disk"))
		if err != nil {
			return contender{}, err
		}
		w.onClose(file.Close)
		return contender{loops: map[string]func(int) operation{workTwoSyncs: func(int) operation { return twoSyncs(file) }}}, nil
	case barePeer(BareLog), barePeer(BareBolt):
		keeper := BareLog
		if name == barePeer(BareBolt) {
			keeper = BareBolt
		}
		store, broker, stop, err := w.startBare(ctx, keeper, filepath.Join(w.Dir(), "bare"))
		if err != nil {
			return contender{}, err
		}
		w.onClose(stop)
		return b.contend(store, bareChannel{broker}), headlineClient(store).fillOneByOne(ctx)
	}
	if p := named(statePeers(), name); p != nil {
		if !b.present(SectionBeside, name, p.missing) {
			return contender{}, nil
		}
		store, err := startState(ctx, w, p)
		if err != nil {
			return contender{}, err
		}
		return b.contend(store, nil), headlineClient(store).fill(ctx)
	}
	p := named(pubsubPeers(), name)
	if !b.present(SectionBeside, name, p.missing) {
		return contender{}, nil
	}
	broker, err := startPubSub(ctx, w, p)
	if err != nil {
		return contender{}, err
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
	var c contender
	if store != nil {
		client := headlineClient(store)
		c.loops = map[string]func(int) operation{
			workSet:  func(clients int) operation { return client.work(workSet, clients) },
			workGet:  func(clients int) operation { return client.work(workGet, clients) },
			workPing: func(int) operation { return pings(store) },
		}
	}
	if over != nil {
		c.runs = map[string]func(context.Context, Cell, int) error{}
		for work, measure := range map[string]func(context.Context, channel, Cell, int) error{workPublish: b.publish, workDeliver: b.deliver} {
			c.runs[work] = func(ctx context.Context, cell Cell, pass int) error { return measure(ctx, over, cell, pass) }
		}
	}
	return c
}
