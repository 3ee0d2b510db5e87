package etcdengine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

const (
	// batchBytes is what the values of several calls may take in one commit, in bytes.
	batchBytes = 512 << 10
	// refusedPause is how long a commit waits that a server has turned away.
	refusedPause = 20 * time.Millisecond
)

// call is one Apply that waits for its commits, to begin before ctx ends.
type call struct {
	ctx          context.Context
	transactions []statestore.Transaction
	now          func() time.Time
	outcomes     []error
	err          error
	done         chan struct{}
}

// weight is what a call takes at least, in operations and bytes.
func (c *call) weight() (ops, bytes int) {
	for i := range c.transactions {
		ops += 2
		for j := range c.transactions[i].Writes {
			ops += 2
			bytes += len(c.transactions[i].Writes[j].Value)
		}
	}
	return ops, bytes
}

// Apply implements statestore.Engine. Concurrent calls share commits.
func (e *Engine) Apply(ctx context.Context, transactions []statestore.Transaction, now func() time.Time) ([]error, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, e.access.RequestTimeout)
	defer cancel()
	c := &call{ctx: ctx, transactions: transactions, now: now, outcomes: make([]error, len(transactions)), done: make(chan struct{})}
	e.mu.Lock()
	if e.ctx.Err() != nil {
		e.mu.Unlock()
		return nil, fmt.Errorf("%w: the connection to etcd is closed", statestore.ErrUnavailable)
	}
	e.waiting = append(e.waiting, c)
	if !e.committing {
		e.committing = true
		e.commits.Go(e.commitAll)
	}
	e.mu.Unlock()
	// A commit that is under way needs the values, so the call waits for it, and for the one before it; both are bounded.
	<-c.done
	return c.outcomes, c.err
}

// commitAll commits what waits until nothing does. A bucket has one commit under way: the servers write one after the other to
// their logs, so that a second one would wait for the first and be smaller for it.
func (e *Engine) commitAll() {
	for {
		calls := e.next()
		if len(calls) == 0 {
			return
		}
		err := e.commit(calls)
		for _, c := range calls {
			c.end(err)
		}
	}
}

func (c *call) end(err error) {
	c.err = err
	close(c.done)
}

// next takes the calls that share the next commit, and ends those that have waited too long; none: commitAll has ended.
func (e *Engine) next() (calls []*call) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ops, bytes := 0, 0
	for len(e.waiting) > 0 {
		c := e.waiting[0]
		if err := c.ctx.Err(); err != nil {
			e.waiting = e.waiting[1:]
			c.end(wrap(err))
			continue
		}
		o, b := c.weight()
		ops, bytes = ops+o, bytes+b
		if len(calls) > 0 && (ops > e.maxOps || bytes > batchBytes) {
			break
		}
		calls, e.waiting = append(calls, c), e.waiting[1:]
	}
	if len(calls) == 0 {
		e.committing = false
	}
	return calls
}

// unit is one transaction of a call.
type unit struct {
	*statestore.Transaction
	call  *call
	place int // in the call
}

// commit takes the calls' transactions, in order, in as few etcd transactions as will do.
func (e *Engine) commit(calls []*call) error {
	var units []unit
	for _, c := range calls {
		for i := range c.transactions {
			units = append(units, unit{&c.transactions[i], c, i})
		}
	}
	for len(units) > 0 {
		n, err := e.commitSome(units)
		if err != nil {
			return err
		}
		units = units[n:]
	}
	return nil
}

// commitSome commits as many of the units as one etcd transaction takes, at least one, and returns how many.
func (e *Engine) commitSome(units []unit) (int, error) {
	ctx, cancel := context.WithTimeout(e.ctx, e.access.RequestTimeout)
	defer cancel()
	for {
		known, err := e.learn(ctx, units)
		if err != nil {
			return 0, err
		}
		p, taken := e.plan(units, known)
		if len(p.txn.ops) == 0 {
			return taken, nil // what was read stands
		}
		stands, err := e.try(ctx, p.txn)
		if stands || err != nil {
			return taken, err
		}
		// Another process was faster. Fewer units depend on less: keys that it writes all the time do not hold up the rest.
		units = units[:(taken+1)/2]
		if _, _, err := e.refresh(ctx); err != nil {
			return 0, err
		}
	}
}

// plan decides as many of the units as one etcd transaction takes.
func (e *Engine) plan(units []unit, known *known) (*plan, int) {
	p := newPlan(e, units[0].call.now(), known)
	for i, u := range units {
		outcome, full := p.take(u.Transaction)
		if full && i > 0 {
			return p, i
		}
		if full {
			outcome = p.tooLarge(u.Transaction)
		}
		u.call.outcomes[u.place] = outcome
	}
	return p, len(units)
}

// learn reads what the units' outcomes depend on.
func (e *Engine) learn(ctx context.Context, units []unit) (*known, error) {
	known := &known{kvs: make(map[string]*mvccpb.KeyValue)}
	need := func(k string) { known.kvs[k] = nil }
	indexed := len(e.registry.Load().kept()) > 0
	for _, u := range units {
		if u.IdempotencyKey != "" {
			need(e.idempotencyKey(u.IdempotencyKey))
		}
		for j := range u.Writes {
			if w := &u.Writes[j]; indexed || w.Conditional() {
				need(e.space.key(layout.KindValue, w.Key))
			}
		}
	}
	keys := slices.Collect(maps.Keys(known.kvs))
	err := e.read(ctx, keys, 0, func(cluster uint64, i int, kv *mvccpb.KeyValue) bool {
		known.cluster, known.kvs[keys[i]] = cluster, kv
		return true
	})
	return known, err
}

// try commits the transaction, and reports whether its conditions held. It is unknown whether it was committed if the error
// says so.
func (e *Engine) try(ctx context.Context, t *txn) (bool, error) {
	answer, err := e.commitTxn(ctx, e.client.Txn(ctx).If(slices.Collect(maps.Values(t.conditions))...).Then(slices.Collect(maps.Values(t.ops))...))
	if err != nil || !answer.Succeeded {
		return false, err
	}
	e.deleteLate(ctx, t, answer.Header.Revision)
	return true, nil
}

// deleteLate deletes the entries that a transaction has left for after its commit at revision, as long as nobody has written
// their values since. Those that stay are in nobody's way.
func (e *Engine) deleteLate(ctx context.Context, t *txn, revision int64) {
	for late := t.late; len(late) > 0; {
		some := newTxn()
		for len(late) > 0 {
			one := newTxn()
			if op := t.ops[late[0].of]; op.IsPut() {
				one.unchanged(late[0].of, revision)
			} else {
				one.unchanged(late[0].of, 0)
			}
			one.delete(late[0].entry)
			if !some.fits(e.maxOps, e.maxBytes, one) {
				break
			}
			some.add(one)
			late = late[1:]
		}
		if stands, err := e.try(ctx, some); !stands || err != nil {
			return
		}
	}
}

// commitTxn commits a transaction. A server that turns it away, as while there is no leader, is asked again until ctx ends.
func (c *Cluster) commitTxn(ctx context.Context, t clientv3.Txn) (*clientv3.TxnResponse, error) {
	for {
		answer, err := t.Commit()
		switch {
		case err == nil:
			return answer, nil
		case refused(err):
		case isRefusal(err):
			return nil, wrap(err)
		default:
			return nil, fmt.Errorf("%w; what was to be written may have been", wrap(err))
		}
		pause := time.NewTimer(refusedPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, wrap(errors.Join(err, ctx.Err()))
		}
	}
}

// isRefusal reports whether an error says that nothing was written. That there is no room does not: the server whose quota a
// write passes takes it, and answers as those do that take none after it.
func isRefusal(err error) bool {
	c := code(err)
	return (c == codes.InvalidArgument || c == codes.ResourceExhausted) && !errors.Is(err, rpctypes.ErrNoSpace)
}
