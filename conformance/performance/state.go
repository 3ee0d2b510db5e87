package performance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/dapr/components-contrib/state"
	"golang.org/x/sync/errgroup"
)

// What clients do to a state store. All of them choose among the same keys at random.
const (
	workSet         = "set"
	workGet         = "get"
	workMixed       = "mixed" // three gets to one set
	workTransaction = "transaction of 10"

	transactionSize = 10
	getsOfMixed     = 3
)

// keysOf is how many keys there are for values of a size: few enough that filling in takes no longer than measuring.
func keysOf(size int) int {
	if size > 4<<10 {
		return 1_000
	}
	return 10_000
}

func keyName(n int) string { return fmt.Sprintf("bench-key-%08d", n) }

func (b *Bench) state(ctx context.Context, round int) error {
	for _, size := range b.opts.Sizes {
		for _, p := range statePeers() {
			if !b.present(SectionState, p.name, p.missing) {
				continue
			}
			err := b.inWorld(func(w *world) error {
				store, err := startState(ctx, w, p)
				if err != nil {
					return err
				}
				return b.measureState(ctx, component{store}, p.name, size, round)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Bench) measureState(ctx context.Context, store keyValues, name string, size, round int) error {
	c := newStateClient(store, keysOf(size), size)
	if err := c.fill(ctx); err != nil {
		return fmt.Errorf("%s: fill in: %w", name, err)
	}
	for _, work := range []string{workSet, workGet, workMixed, workTransaction} {
		for _, clients := range b.opts.Clients {
			b.measureWork(ctx, c, Cell{Section: SectionState, Work: work, Peer: name, Clients: clients, Size: size}, round)
		}
	}
	return ctx.Err()
}

func (b *Bench) measureWork(ctx context.Context, c *stateClient, cell Cell, round int) {
	b.measure(ctx, cell, round, c.work(cell.Work, cell.Clients))
}

// keyValues is what values are kept in: a component, or sidecars with one behind them.
type keyValues interface {
	set(ctx context.Context, key string, value []byte) error
	get(ctx context.Context, key string) ([]byte, error)
	// transact sets all keys to value, or none.
	transact(ctx context.Context, keys []string, value []byte) error
}

type component struct{ store state.Store }

func (c component) set(ctx context.Context, key string, value []byte) error {
	return c.store.Set(ctx, &state.SetRequest{Key: key, Value: value})
}

func (c component) get(ctx context.Context, key string) ([]byte, error) {
	r, err := c.store.Get(ctx, &state.GetRequest{Key: key})
	if err != nil {
		return nil, err
	}
	return r.Data, nil
}

func (c component) transact(ctx context.Context, keys []string, value []byte) error {
	store, ok := c.store.(state.TransactionalStore)
	if !ok {
		return errors.New("it has no transactions")
	}
	req := &state.TransactionalStateRequest{}
	for _, key := range keys {
		req.Operations = append(req.Operations, state.SetRequest{Key: key, Value: value})
	}
	return store.Multi(ctx, req)
}

// stateClient calls a store with values of one size under one set of keys.
type stateClient struct {
	store keyValues
	keys  int
	value []byte
}

func newStateClient(store keyValues, keys, size int) *stateClient {
	c := &stateClient{store: store, keys: keys, value: make([]byte, size)}
	for i := range c.value {
		c.value[i] = byte('a' + i%26)
	}
	return c
}

// headlineClient calls a component as the promises have it.
func headlineClient(store state.Store) *stateClient {
	return newStateClient(component{store}, keysOf(headlineSize), headlineSize)
}

// fill sets every key once, a few in a transaction: some peers refuse sets while others are under way.
func (c *stateClient) fill(ctx context.Context) error {
	const most = 16
	var keys []string
	for n := range c.keys {
		keys = append(keys, keyName(n))
		if len(keys) == most || n == c.keys-1 {
			if err := c.store.transact(ctx, keys, c.value); err != nil {
				return err
			}
			keys = keys[:0]
		}
	}
	return nil
}

// fillOneByOne is fill for who has no transactions.
func (c *stateClient) fillOneByOne(ctx context.Context) error {
	var group errgroup.Group
	group.SetLimit(headlineClients)
	for n := range c.keys {
		group.Go(func() error { return c.set(ctx, n) })
	}
	return group.Wait()
}

// work returns the operation for closedLoop. Every run of it chooses the same keys in the same order.
func (c *stateClient) work(name string, clients int) operation {
	random := make([]*rand.Rand, clients)
	for i := range random {
		random[i] = rand.New(rand.NewPCG(uint64(i), uint64(clients)))
	}
	return func(ctx context.Context, client, call int) error {
		n := random[client].IntN(c.keys)
		switch {
		case name == workTransaction:
			return c.transact(ctx, random[client])
		case name == workGet || name == workMixed && call%(getsOfMixed+1) != 0:
			return c.get(ctx, n)
		default:
			return c.set(ctx, n)
		}
	}
}

func (c *stateClient) set(ctx context.Context, n int) error {
	return c.store.set(ctx, keyName(n), c.value)
}

func (c *stateClient) get(ctx context.Context, n int) error {
	value, err := c.store.get(ctx, keyName(n))
	if err != nil {
		return err
	}
	if len(value) != len(c.value) {
		return fmt.Errorf("get of key %s: %d bytes, not the %d that were set", keyName(n), len(value), len(c.value))
	}
	return nil
}

func (c *stateClient) transact(ctx context.Context, random *rand.Rand) error {
	var keys []string
	taken := map[int]bool{}
	for len(keys) < transactionSize {
		if n := random.IntN(c.keys); !taken[n] {
			taken[n] = true
			keys = append(keys, keyName(n))
		}
	}
	return c.store.transact(ctx, keys, c.value)
}
