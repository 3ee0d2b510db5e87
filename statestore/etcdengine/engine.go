package etcdengine

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/internal/layout"
)

// Engine is statestore.Engine for one bucket of a Cluster.
type Engine struct {
	*Cluster
	space       space
	incarnation string
	registry    atomic.Pointer[registry] // the newest that was seen
	sweeping    sweepLease

	// Calls that wait for a commit, and whether one is under way.
	mu         sync.Mutex
	waiting    []*call
	committing bool
}

var _ statestore.Engine = (*Engine)(nil)

// Engine returns the engine of a bucket, which it creates if it is missing. Neither name may have a slash. Engines of the
// same names share their data, whichever process they are in. An Engine ends with its Cluster.
func (c *Cluster) Engine(ctx context.Context, database, bucket string) (*Engine, error) {
	e := &Engine{Cluster: c, space: space(c.access.Prefix + "/" + database + "/state/" + bucket + "/")}
	key := e.space.key(kindIncarnation, "")
	ctx, cancel := context.WithTimeout(ctx, c.access.RequestTimeout)
	defer cancel()
	answer, err := c.commitTxn(ctx, c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, rand.Text()), clientv3.OpGet(key)).
		Else(clientv3.OpGet(key)))
	if err != nil {
		return nil, fmt.Errorf("open state bucket %s in etcd: %w", bucket, err)
	}
	last := answer.Responses[len(answer.Responses)-1].GetResponseRange()
	e.incarnation = string(last.Kvs[0].Value)
	if _, _, err := e.refresh(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.engines = append(c.engines, e)
	c.mu.Unlock()
	return e, nil
}

// etag names a version. The cluster's id is in it because one that was put back from a backup gives revisions out again.
func (e *Engine) etag(cluster uint64, key string, revision int64) string {
	h := fnv.New64a()
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], cluster)
	_, _ = h.Write(id[:])
	_, _ = h.Write([]byte(e.incarnation))
	_, _ = h.Write([]byte(key))
	return strconv.FormatInt(revision, 10) + "-" + strconv.FormatUint(h.Sum64(), 36)
}

// item makes an Item of what was read of a key; kv is nil if that is nothing.
func (e *Engine) item(cluster uint64, key string, kv *mvccpb.KeyValue, room int, now time.Time) statestore.Item {
	if kv == nil {
		return statestore.Item{Key: key}
	}
	r, err := e.space.decodeRecord(string(kv.Key), kv.Value)
	if err != nil {
		return statestore.Item{Key: key, Err: err}
	}
	if statestore.ExpiredInstant(r.Expires, now) {
		return statestore.Item{Key: key}
	}
	return r.Item(key, e.etag(cluster, key, kv.ModRevision), room)
}

// Get implements statestore.Engine.
func (e *Engine) Get(ctx context.Context, keys []string, room int, now time.Time) ([]statestore.Item, error) {
	items := make([]statestore.Item, len(keys))
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = e.space.key(layout.KindValue, key)
	}
	err := e.read(ctx, names, 0, func(cluster uint64, i int, kv *mvccpb.KeyValue) bool {
		items[i] = e.item(cluster, keys[i], kv, room, now)
		room -= items[i].Size()
		return true
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

const (
	// readFirst is how many keys the first of several reads takes; the next ones take more while values are small, so that
	// an answer of large ones stays bounded.
	readFirst = 16
	// readMost is how many keys a read takes at most.
	readMost = 4096
	// readBytes is what an answer aims at, in bytes.
	readBytes = 1 << 20
)

// nextStep is how many keys to read after step of them had values of size bytes.
func nextStep(step, size int) int {
	switch {
	case size < readBytes/2:
		return min(2*step, readMost)
	case size > 2*readBytes:
		return max(step/2, 1)
	}
	return step
}

// read shows what the keys hold at revision (0: now, linearizably) in order, all at the same one. A key that does not exist
// has no kv. visit returns false to end the walk.
func (e *Engine) read(ctx context.Context, keys []string, revision int64, visit func(cluster uint64, i int, kv *mvccpb.KeyValue) bool) error {
	ctx, cancel := context.WithTimeout(ctx, e.access.RequestTimeout*time.Duration(1+len(keys)/readFirst))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	for from, step := 0, readFirst; from < len(keys); {
		to := min(from+step, len(keys), from+e.maxOps)
		at, kvs, err := e.readSome(ctx, keys[from:to], revision)
		if err != nil {
			return wrap(err)
		}
		revision = cmp.Or(revision, at.Revision)
		size := 0
		for i, kv := range kvs {
			if kv != nil {
				size += len(kv.Value)
			}
			if !visit(at.ClusterId, from+i, kv) {
				return nil
			}
		}
		from, step = to, nextStep(step, size)
	}
	return nil
}

// readSome reads in one request.
func (e *Engine) readSome(ctx context.Context, keys []string, revision int64) (at *etcdserverpb.ResponseHeader, kvs []*mvccpb.KeyValue, err error) {
	if len(keys) == 1 {
		answer, err := e.client.Get(ctx, keys[0], clientv3.WithRev(revision))
		if err != nil {
			return nil, nil, err
		}
		return answer.Header, []*mvccpb.KeyValue{onlyOf(answer.Kvs)}, nil
	}
	ops := make([]clientv3.Op, len(keys))
	for i, k := range keys {
		ops[i] = clientv3.OpGet(k, clientv3.WithRev(revision))
	}
	answer, err := e.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range answer.Responses {
		kvs = append(kvs, onlyOf(r.GetResponseRange().Kvs))
	}
	return answer.Header, kvs, nil
}

// onlyOf returns the one that is there, or nil.
func onlyOf(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

// get is read for one key.
func (e *Engine) get(ctx context.Context, k string, revision int64) (at *etcdserverpb.ResponseHeader, kv *mvccpb.KeyValue, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.access.RequestTimeout)
	defer cancel()
	at, kvs, err := e.readSome(ctx, []string{k}, revision)
	if err != nil {
		return nil, nil, wrap(err)
	}
	return at, kvs[0], nil
}
