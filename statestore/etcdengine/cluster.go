package etcdengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Cluster is a connection to a cluster. Its methods may be called from any goroutine.
type Cluster struct {
	client    *clientv3.Client
	access    servers.Access
	endpoints []string
	maxOps    int
	maxBytes  int
	closeOnce sync.Once
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	commits   sync.WaitGroup // that are under way

	mu      sync.Mutex
	engines []*Engine
}

// What the servers may be configured to, the largest first: the largest that every server takes counts. The last of each is
// the least that will do: a write with indexes takes many operations, more than etcd's default of 128; a request of etcd's
// default of 1.5 MiB is enough for smaller values.
var (
	txnOps       = []int{16384, 4096, 1024}
	requestBytes = []int{8 << 20, 6 << 20, 4 << 20, 3 << 20, 2 << 20, 3 << 19}
)

// Connect connects to the cluster and asks each server that can be reached what it takes. RequestTimeout bounds each request,
// and with it how long a call takes to fail when the cluster is lost. The caller must Close the Cluster.
//
// Errors: invalid.Error for an Access that cannot work and for servers that take too little, with the flag to set;
// statestore.ErrUnavailable if the cluster does not answer in time.
func Connect(ctx context.Context, access servers.Access) (*Cluster, error) {
	access.Prefix = cmp.Or(access.Prefix, servers.DefaultPrefix)
	access.DialTimeout = cmp.Or(access.DialTimeout, servers.DefaultDialTimeout)
	access.RequestTimeout = cmp.Or(access.RequestTimeout, servers.DefaultRequestTimeout)
	c := &Cluster{access: access, endpoints: access.List()}
	if len(c.endpoints) == 0 {
		return nil, invalid.New("endpoints", "", "the URLs of the etcd servers, with commas between them")
	}
	ctx, cancel := context.WithTimeout(ctx, access.DialTimeout)
	defer cancel()
	if err := c.checkTLS(ctx); err != nil {
		return nil, err
	}
	var err error
	if c.client, err = c.newClient(c.endpoints...); err != nil {
		return nil, fmt.Errorf("connect to etcd %s: %w", strings.Join(c.endpoints, ","), c.explain(err))
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.learnLimits(ctx); err != nil {
		if ctx.Err() != nil && !errors.Is(err, invalid.Err) {
			err = fmt.Errorf("%w: connect to etcd: none of %s served within the dialTimeout of %s", statestore.ErrUnavailable, strings.Join(c.endpoints, ","), access.DialTimeout)
		}
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) newClient(endpoints ...string) (*clientv3.Client, error) {
	now, err := c.access.TLS()
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{grpc.WithChainUnaryInterceptor(requireLeader)}
	if now != nil && !strings.HasPrefix(endpoints[0], "http://") {
		options = append(options, grpc.WithTransportCredentials(&eachTLS{credentials.NewTLS(now), c.access.TLS}))
	}
	return clientv3.New(clientv3.Config{
		Endpoints:   endpoints,
		Username:    c.access.Username,
		Password:    c.access.Password,
		TLS:         now,
		DialTimeout: c.access.DialTimeout,
		// A server that hangs keeps its connections: only this notices.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		PermitWithoutStream:  true,
		MaxCallSendMsgSize:   maxMessage,
		DialOptions:          options,
		Logger:               zap.NewNop(),
	})
}

// requireLeader has a server that has lost the others say so, for another one to be asked: it would keep the request until
// that has no time left.
func requireLeader(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(clientv3.WithRequireLeader(ctx), method, request, answer, conn, opts...)
}

// maxMessage is more than any request takes: what is too large for the servers is for them to say.
const maxMessage = 64 << 20

// Close ends the connection, and with it the commits that are under way, and lets other processes sweep.
func (c *Cluster) Close() (err error) {
	c.closeOnce.Do(func() {
		c.cancel()
		c.commits.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
		defer cancel()
		c.mu.Lock()
		engines := c.engines
		c.mu.Unlock()
		for _, e := range engines {
			e.release(ctx)
		}
		err = c.client.Close()
	})
	return err
}

// Limits are what the Store over an engine of this cluster must hold its calls to.
func (c *Cluster) Limits() statestore.Limits {
	return statestore.Limits{
		MaxValueSize: min(statestore.MaxValueSize, c.maxBytes-requestHead),
		// A write takes two operations if it expires, and an idempotency key as well.
		MaxTransactionSize: min(statestore.MaxTransactionSize, c.maxOps/2-1),
	}
}

// requestHead is what a request is left beside a value, in bytes: keys, comparisons, entries of indexes.
const requestHead = 64 << 10

// learnLimits asks every server for what it takes. None of them says so; each refuses what is too large before it looks at
// it, so harmless reads of the right size tell. A server that cannot be reached is left out: others serve.
func (c *Cluster) learnLimits(ctx context.Context) error {
	n := len(c.endpoints)
	ops, bytes, errs := make([]int, n), make([]int, n), make([]error, n)
	var group sync.WaitGroup
	for i, endpoint := range c.endpoints {
		group.Go(func() { ops[i], bytes[i], errs[i] = c.limitsOf(ctx, endpoint) })
	}
	group.Wait()
	c.maxOps, c.maxBytes = txnOps[0], requestBytes[0]
	reached := false
	for i, err := range errs {
		if errors.Is(err, invalid.Err) {
			return err
		}
		if err == nil {
			reached = true
			c.maxOps, c.maxBytes = min(c.maxOps, ops[i]), min(c.maxBytes, bytes[i])
		}
	}
	if !reached {
		return fmt.Errorf("connect to etcd: %w", unreachable(c.endpoints, errs))
	}
	return nil
}

func (c *Cluster) limitsOf(ctx context.Context, endpoint string) (ops, bytes int, err error) {
	client, err := c.newClient(endpoint)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if ops, err = largest(txnOps, func(n int) error { return c.probeOps(ctx, client, n) }); err != nil {
		return 0, 0, tooLittle(err, endpoint, "max-txn-ops", ops)
	}
	if bytes, err = largest(requestBytes, func(n int) error { return c.probeBytes(ctx, client, n) }); err != nil {
		return 0, 0, tooLittle(err, endpoint, "max-request-bytes", bytes)
	}
	return ops, bytes, nil
}

// largest returns the first of candidates that probe allows. If it allows none, the error is errTooLittle.
func largest(candidates []int, probe func(int) error) (int, error) {
	for _, n := range candidates {
		err := probe(n)
		if err == nil || !errors.Is(err, errTooLittle) {
			return n, err
		}
	}
	return candidates[len(candidates)-1], errTooLittle
}

var errTooLittle = errors.New("the server takes less")

func tooLittle(err error, endpoint, flag string, least int) error {
	if !errors.Is(err, errTooLittle) {
		return err
	}
	return invalid.New("endpoints", endpoint, fmt.Sprintf("a server that was started with --%s=%d or more", flag, least))
}

// probeKey is one that nobody sets.
func (c *Cluster) probeKey() string { return c.access.Prefix + "/" }

func (c *Cluster) probeOps(ctx context.Context, client *clientv3.Client, n int) error {
	get := clientv3.OpGet(c.probeKey(), clientv3.WithCountOnly(), clientv3.WithSerializable())
	_, err := client.Txn(ctx).Then(slices.Repeat([]clientv3.Op{get}, n)...).Commit()
	if errors.Is(err, rpctypes.ErrTooManyOps) {
		return errTooLittle
	}
	return c.explain(err)
}

// probeBytes reads a key of that length. A server takes messages of half a mebibyte beyond what it takes as a request.
func (c *Cluster) probeBytes(ctx context.Context, client *clientv3.Client, n int) error {
	const overhead = 512 << 10
	key := c.probeKey() + strings.Repeat("-", n+overhead-1024)
	_, err := client.Get(ctx, key, clientv3.WithCountOnly(), clientv3.WithSerializable())
	if code(err) == codes.ResourceExhausted {
		return errTooLittle
	}
	return c.explain(err)
}

// Health asks every server how it is. The error is nil if the cluster can be read and written, else it says what is wrong, with
// the servers that cannot be reached.
func (c *Cluster) Health(ctx context.Context) ([]Server, error) {
	ctx, cancel := context.WithTimeout(ctx, c.access.RequestTimeout)
	defer cancel()
	var err error
	var reading sync.WaitGroup
	reading.Go(func() { _, err = c.client.Get(ctx, c.probeKey(), clientv3.WithCountOnly()) })
	all := c.servers(context.WithoutCancel(ctx))
	reading.Wait()
	errs := make([]error, len(all))
	for i, s := range all {
		if errs[i] = s.Err; len(s.Alarms) > 0 {
			errs[i] = fmt.Errorf("%w: %s", errAlarm, strings.Join(s.Alarms, ", "))
		}
	}
	if err == nil && !errors.Is(errors.Join(errs...), errAlarm) {
		return all, nil // one server may be lost
	}
	return all, fmt.Errorf("etcd: %w", errors.Join(unreachable(c.endpoints, errs), wrap(err)))
}

// Server says how a server of the cluster is.
type Server struct {
	Endpoint string
	// Err says why it did not answer; the rest is not known then.
	Err error
	// Alarms are those that it knows of, its own or another server's.
	Alarms []string
	// Size is that of its database in bytes, and InUse what of that is data.
	Size, InUse int64
}

// servers asks every server how it is. They have a second to answer.
func (c *Cluster) servers(ctx context.Context) []Server {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	all := make([]Server, len(c.endpoints))
	var group sync.WaitGroup
	for i, endpoint := range c.endpoints {
		group.Go(func() {
			all[i].Endpoint = endpoint
			status, err := c.client.Status(ctx, endpoint)
			if all[i].Err = err; err == nil {
				all[i].Alarms, all[i].Size, all[i].InUse = status.Errors, status.DbSize, status.DbSizeInUse
			}
		})
	}
	group.Wait()
	return all
}

// readyTimeout is how long a server has to say how it is.
const readyTimeout = time.Second

var errAlarm = errors.New("it raised an alarm")

// unreachable says what is wrong with which endpoint.
func unreachable(endpoints []string, errs []error) error {
	var list []string
	for i, err := range errs {
		if err != nil {
			list = append(list, fmt.Sprintf("%s: %v", endpoints[i], err))
		}
	}
	if len(list) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", statestore.ErrUnavailable, strings.Join(list, "; "))
}

// wrap makes the domain's errors of etcd's. What etcd says stays in the text only: its errors have codes that are no answer
// to our callers.
func wrap(err error) error {
	switch {
	case err == nil, errors.Is(err, errTooLittle):
		return err
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: etcd's database has reached --quota-backend-bytes: compact and defragment it, then disarm its alarm", statestore.ErrFull)
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%w: the read took longer than etcd keeps old revisions (--auto-compaction-retention): try again, or read less at once", statestore.ErrUnavailable)
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: a server takes fewer operations in a transaction than it did at Init (--max-txn-ops)", statestore.ErrUnavailable)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: a server takes smaller requests than it did at Init (--max-request-bytes)", statestore.ErrUnavailable)
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, context.DeadlineExceeded), code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("%w: etcd did not answer in time (requestTimeout); /readyz says which servers do not", statestore.ErrUnavailable)
	}
	return fmt.Errorf("%w: etcd: %v", statestore.ErrUnavailable, err)
}

func code(err error) codes.Code {
	var etcd rpctypes.EtcdError
	if errors.As(err, &etcd) {
		return etcd.Code()
	}
	return status.Code(err)
}

// refused reports whether a server has turned the request away before it did anything.
func refused(err error) bool {
	return errors.Is(err, rpctypes.ErrNoLeader) || errors.Is(err, rpctypes.ErrTooManyRequests)
}
