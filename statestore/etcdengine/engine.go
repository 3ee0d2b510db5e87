package etcdengine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dapr-bolt/dapr-bolt/statestore"
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
	e := &Engine{Cluster: c, space: space(c.config.Prefix + "/" + database + "/state/" + bucket + "/")}
	key := e.space.key(kindIncarnation, "")
	ctx, cancel := context.WithTimeout(ctx, c.config.RequestTimeout)
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
	if err := e.refresh(ctx); err != nil {
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
	r, err := decodeRecord(key, string(kv.Key), kv.Value)
	if err != nil {
		return statestore.Item{Key: key, Err: err}
	}
	if statestore.ExpiredInstant(r.expires, now) {
		return statestore.Item{Key: key}
	}
	item := statestore.Item{
		Key:         key,
		Found:       true,
		Value:       r.value,
		ETag:        e.etag(cluster, key, kv.ModRevision),
		ContentType: string(r.contentType),
		Expires:     statestore.InstantTime(r.expires),
	}
	if item.Size() > room {
		return statestore.Item{Key: key, Err: statestore.ErrNoRoom}
	}
	item.Value = bytes.Clone(r.value)
	return item
}

// Get implements statestore.Engine.
func (e *Engine) Get(ctx context.Context, keys []string, room int, now time.Time) ([]statestore.Item, error) {
	items := make([]statestore.Item, len(keys))
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = e.space.key(kindValue, key)
	}
	_, err := e.read(ctx, names, 0, func(cluster uint64, i int, kv *mvccpb.KeyValue) bool {
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
	// readBytes is what an answer aims at, in bytes.
	readBytes = 1 << 20
)

// read shows what the keys hold at revision (0: now, linearizably) in order, all at the same one, which it returns. A key
// that does not exist has no kv. visit returns false to end the walk.
func (e *Engine) read(ctx context.Context, keys []string, revision int64, visit func(cluster uint64, i int, kv *mvccpb.KeyValue) bool) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, e.config.RequestTimeout*time.Duration(1+len(keys)/readFirst))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	step := readFirst
	for from := 0; from < len(keys); {
		to := min(from+step, len(keys), from+e.maxOps)
		ops := make([]clientv3.Op, 0, to-from)
		for _, k := range keys[from:to] {
			ops = append(ops, clientv3.OpGet(k, clientv3.WithRev(revision)))
		}
		size := 0
		show := func(cluster uint64, i int, kvs []*mvccpb.KeyValue) bool {
			if len(kvs) == 0 {
				return visit(cluster, i, nil)
			}
			size += len(kvs[0].Value)
			return visit(cluster, i, kvs[0])
		}
		if len(ops) == 1 {
			answer, err := e.client.Do(ctx, ops[0])
			if err != nil {
				return 0, wrap(err)
			}
			found := answer.Get()
			if revision == 0 {
				revision = found.Header.Revision
			}
			if !show(found.Header.ClusterId, from, found.Kvs) {
				return revision, nil
			}
		} else {
			answer, err := e.client.Txn(ctx).Then(ops...).Commit()
			if err != nil {
				return 0, wrap(err)
			}
			if revision == 0 {
				revision = answer.Header.Revision
			}
			for i, r := range answer.Responses {
				if !show(answer.Header.ClusterId, from+i, r.GetResponseRange().Kvs) {
					return revision, nil
				}
			}
		}
		from = to
		if size < readBytes/2 {
			step *= 2
		} else if size > 2*readBytes {
			step = max(step/2, 1)
		}
	}
	return revision, nil
}
