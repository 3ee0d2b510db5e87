// Package databases keeps the data directory: it opens database files by name, and hands out one state store and one
// broker for each of their buckets, whoever asks.
package databases

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/jonboulle/clockwork"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/durable"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	pubsubengine "github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
	"github.com/dapr-bolt/dapr-bolt/pubsub/natsbroker"
	"github.com/dapr-bolt/dapr-bolt/statestore"
	stateengine "github.com/dapr-bolt/dapr-bolt/statestore/boltengine"
	"github.com/dapr-bolt/dapr-bolt/statestore/etcdengine"
)

// ErrClosed answers every call on a Manager after Close.
var ErrClosed = errors.New("the data directory is closed")

// ErrTooMany refuses to open more databases or buckets than Options allow.
var ErrTooMany = errors.New("too many databases or buckets")

// What Options bound by default. Each open file takes 256 GiB of address space, and each bucket some goroutines.
const (
	DefaultMaxDatabases = 64
	// bucketsOfDatabase is what a database may have of each kind of bucket, on average.
	bucketsOfDatabase = 16
)

// Options for Open; the zero value of each but Dir is the documented default.
type Options struct {
	// Dir is the data directory. Required.
	Dir string
	// Clock is what stores and brokers go by. Default: the system's.
	Clock clockwork.Clock
	// MaxDatabases bounds the files that are open at once, and with them, at 16 times as many of each kind, the buckets.
	// Default: DefaultMaxDatabases.
	MaxDatabases int
	// MaxPendingBytes bounds the events that all brokers together keep in memory; see pubsub.Budget. What is encoded to be
	// sent comes on top: gRPC keeps at most two events of a stream whose client does not read. Default:
	// pubsub.DefaultPendingBytes.
	MaxPendingBytes int64
	// Names bounds the topics and groups of each bucket. Default: that of pubsub.NameLimits.
	Names pubsub.NameLimits
	// Metrics are written to by the files and brokers. Default: new ones.
	Metrics *metrics.Metrics
	// Logger hears of what the stores and brokers do on their own. Default: slog.Default().
	Logger *slog.Logger
}

// Manager owns the open files of one data directory and all that works on them. Its methods may be called from any
// goroutine; opening one file does not hold up calls for another.
type Manager struct {
	opts    Options
	files   *shared[string, *boltdb.DB]
	stores  *shared[namespace, *statestore.Store]
	brokers *shared[namespace, pubsub.Service]
	// natsBrokers are on servers in place of files.
	natsBrokers *shared[natsNamespace, *natsbroker.Broker]
	budget      *pubsub.Budget
	// What is on servers in place of files.
	clusters      *shared[servers.Access, *etcdengine.Cluster]
	clusterStores *shared[clusterNamespace, *statestore.Store]

	closeOnce sync.Once
	closeErr  error
}

// Open returns a Manager of opts.Dir, which it creates (mode 0700) if it is missing. It opens no file yet. The caller
// must Close the Manager.
func Open(ctx context.Context, opts Options) (*Manager, error) {
	opts.Clock = cmp.Or(opts.Clock, clockwork.NewRealClock())
	opts.Logger = cmp.Or(opts.Logger, slog.Default())
	opts.MaxDatabases = cmp.Or(opts.MaxDatabases, DefaultMaxDatabases)
	if opts.Metrics == nil {
		opts.Metrics = metrics.New()
	}
	if opts.Dir == "" {
		return nil, errors.New("open data directory: its path is empty")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if err := makeDir(opts.Dir); errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("open data directory: %w: the user who runs dapr-bolt may not make it; choose another data directory", err)
	} else if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	info, err := os.Stat(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open data directory: %s is not a directory", opts.Dir)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		opts.Logger.Warn("other users can reach the data directory; chmod 700 keeps them out",
			"dir", opts.Dir, "mode", fmt.Sprintf("%#o", mode))
	}
	m := &Manager{opts: opts, budget: pubsub.NewBudget(opts.MaxPendingBytes)}
	buckets := bucketsOfDatabase * opts.MaxDatabases
	m.natsBrokers = newShared("pub/sub buckets on nats", buckets, m.openNATSBroker)
	m.files = newShared("databases", opts.MaxDatabases, m.openFile)
	m.stores = newShared("state buckets", buckets, m.openStore)
	m.brokers = newShared("pub/sub buckets", buckets, m.openBroker)
	m.clusters = newShared("etcd clusters", opts.MaxDatabases, etcdengine.Connect)
	m.clusterStores = newShared("state buckets in etcd", buckets, m.openClusterStore)
	return m, nil
}

// makeDir makes the directory and what is missing above it, whatever the umask. One that is there is left as it is.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	const private = 0o700
	err := os.Mkdir(dir, private)
	if errors.Is(err, fs.ErrExist) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(dir, private), durable.SyncDir(filepath.Dir(dir)))
}

// OpenDatabase opens the database's file, or creates it, ahead of its first use.
//
// Errors: NameError, boltdb.ErrLocked (which names the process that has it open), boltdb.ErrFormat, and the system's.
func (m *Manager) OpenDatabase(ctx context.Context, database string) error {
	if err := CheckName("database", database); err != nil {
		return err
	}
	_, err := m.files.get(ctx, database)
	return err
}

// StateStore returns the state that bucket of database holds, and creates both if need be. Every call with the same
// names returns the same Store, which the Manager closes.
func (m *Manager) StateStore(ctx context.Context, database, bucket string) (*statestore.Store, error) {
	ns := namespace{database, bucket}
	if err := ns.check(); err != nil {
		return nil, err
	}
	return m.stores.get(ctx, ns)
}

// Broker returns the topics that bucket of database holds, and creates both if need be. Every call with the same names
// returns the same Broker, which the Manager closes.
func (m *Manager) Broker(ctx context.Context, database, bucket string) (pubsub.Service, error) {
	ns := namespace{database, bucket}
	if err := ns.check(); err != nil {
		return nil, err
	}
	return m.brokers.get(ctx, ns)
}

// ExistingBroker is Broker for callers that only look: it creates nothing. What is missing is an error that matches
// fs.ErrNotExist and names what is there instead.
func (m *Manager) ExistingBroker(ctx context.Context, database, bucket string) (pubsub.Service, error) {
	for _, b := range m.openNATSBrokers() {
		if b.Database == database && b.Bucket == bucket {
			return b.Broker, nil
		}
	}
	if err := m.exists(ctx, namespace{database, bucket}, boltdb.KindPubSub, "pub/sub"); err != nil {
		return nil, err
	}
	return m.brokers.get(ctx, namespace{database, bucket})
}

// ExistingStore is StateStore likewise.
func (m *Manager) ExistingStore(ctx context.Context, database, bucket string) (*statestore.Store, error) {
	for _, s := range m.openClusterStores() {
		if s.Database == database && s.Bucket == bucket {
			return s.Store, nil
		}
	}
	if err := m.exists(ctx, namespace{database, bucket}, boltdb.KindState, "state"); err != nil {
		return nil, err
	}
	return m.stores.get(ctx, namespace{database, bucket})
}

// exists returns an error unless the directory holds a bucket of a kind.
func (m *Manager) exists(ctx context.Context, ns namespace, kind, what string) error {
	if err := ns.check(); err != nil {
		return err
	}
	buckets, err := m.bucketsOf(ctx, ns.database, kind)
	if err != nil {
		return err
	}
	if !slices.Contains(buckets, ns.bucket) {
		return &missingError{fmt.Sprintf("database %s has no %s bucket %q: there is %s", ns.database, what, ns.bucket, listed(buckets))}
	}
	return nil
}

// Backup writes a consistent copy of the database to path while work on it goes on. path must be absolute, and nothing
// may be there, nor may it be the path of a database of the directory: whoever looks would open that. A database that does not
// exist is an error that matches fs.ErrNotExist, a taken path one that matches fs.ErrExist.
func (m *Manager) Backup(ctx context.Context, database, path string) error {
	if err := CheckName("database", database); err != nil {
		return err
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("back up database %s: %w: path %q: allowed: an absolute path", database, fs.ErrInvalid, path)
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("back up database %s: %s: %w; name a new file", database, path, fs.ErrExist)
	}
	if m.isDatabase(path) {
		return fmt.Errorf("back up database %s: %w: path %q: it would be a database of the data directory, to be opened and written to: allowed: another folder, or a name without %s at its end",
			database, fs.ErrInvalid, path, fileSuffix)
	}
	db, err := m.existingFile(ctx, database)
	if err != nil {
		return err
	}
	return db.Backup(ctx, path)
}

// isDatabase reports whether a file at path would be a database of the directory.
func (m *Manager) isDatabase(path string) bool {
	dir, err := os.Stat(m.opts.Dir)
	if err != nil {
		return false
	}
	of, err := os.Stat(filepath.Dir(path))
	return err == nil && os.SameFile(of, dir) && strings.HasSuffix(path, fileSuffix)
}

// Limits says what is used of --max-databases and --max-pending-bytes.
func (m *Manager) Limits() []metrics.Limit {
	used, limit := m.budget.Used(), m.budget.Limit()
	return []metrics.Limit{
		{Flag: "max-databases", Used: float64(len(m.files.made())), Max: float64(m.opts.MaxDatabases)},
		{Flag: "max-pending-bytes", Used: float64(used), Max: float64(limit)},
	}
}

// Disk returns how many bytes can be written to the file system of the data directory, and its size. Where the system does
// not tell, the error matches errors.ErrUnsupported.
func (m *Manager) Disk() (available, size uint64, err error) { return disk(m.opts.Dir) }

// Names bounds the topics and groups of each bucket.
func (m *Manager) Names() pubsub.NameLimits { return m.opts.Names.WithDefaults() }

// Database describes an open file.
type Database struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// Size is the file's length in bytes, and LogSize that of the log beside it.
	Size    int64 `json:"size"`
	LogSize int64 `json:"logSize"`
	// Stats are what was done to the file since it was opened.
	Stats boltdb.Stats `json:"-"`
}

// Databases lists the files that are open, by name.
func (m *Manager) Databases() ([]Database, error) {
	var list []Database
	for name, db := range m.files.made() {
		size, err := db.Size()
		if err != nil {
			return nil, err
		}
		logSize, err := db.LogSize()
		if err != nil {
			return nil, err
		}
		list = append(list, Database{Name: name, Path: db.Path(), Size: size, LogSize: logSize, Stats: db.Stats()})
	}
	slices.SortFunc(list, func(a, b Database) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// OpenBroker is a broker, and where its topics are.
type OpenBroker struct {
	Database, Bucket string
	Broker           pubsub.Service

	servers string // tells those of one name apart
}

// Brokers returns the brokers of all pub/sub buckets that the directory holds, by database and bucket, and opens those that
// nobody uses yet. What cannot be opened is left out, and the error says which it is. Whoever only looks leaves half of
// MaxDatabases to those who work: further files are left out, too. Brokers on servers are those that sidecars of this
// process use.
func (m *Manager) Brokers(ctx context.Context) (list []OpenBroker, err error) {
	err = m.eachBucket(ctx, boltdb.KindPubSub, func(ns namespace) error {
		b, err := m.brokers.get(ctx, ns)
		if err == nil {
			list = append(list, OpenBroker{Database: ns.database, Bucket: ns.bucket, Broker: b})
		}
		return err
	})
	return append(list, m.openNATSBrokers()...), err
}

// BrokersInUse returns the brokers that somebody has used since the process started, and opens none.
func (m *Manager) BrokersInUse() []OpenBroker {
	list := m.openNATSBrokers()
	for ns, b := range m.brokers.made() {
		list = append(list, OpenBroker{Database: ns.database, Bucket: ns.bucket, Broker: b})
	}
	return list
}

// OpenStore is a state store, and where its keys are.
type OpenStore struct {
	Database, Bucket string
	Store            *statestore.Store

	servers string // tells those of one name apart
}

// Stores is Brokers for the state buckets.
func (m *Manager) Stores(ctx context.Context) (list []OpenStore, err error) {
	err = m.eachBucket(ctx, boltdb.KindState, func(ns namespace) error {
		s, err := m.stores.get(ctx, ns)
		if err == nil {
			list = append(list, OpenStore{Database: ns.database, Bucket: ns.bucket, Store: s})
		}
		return err
	})
	return append(list, m.openClusterStores()...), err
}

// eachBucket calls fn for every bucket of a kind that the directory holds, and returns all that went wrong.
func (m *Manager) eachBucket(ctx context.Context, kind string, fn func(ns namespace) error) error {
	names, err := m.names()
	for _, database := range names {
		if open := m.files.made(); open[database] == nil && len(open) >= m.opts.MaxDatabases/2 {
			err = errors.Join(err, fmt.Errorf("database %s: %w: %d are open, and looking opens half of --max-databases, %d, at most", database, ErrTooMany, len(open), m.opts.MaxDatabases))
			continue
		}
		buckets, bucketsErr := m.bucketsOf(ctx, database, kind)
		err = errors.Join(err, bucketsErr)
		for _, bucket := range buckets {
			err = errors.Join(err, fn(namespace{database, bucket}))
		}
	}
	return err
}

// bucketsOf returns the buckets of a kind that a database has.
func (m *Manager) bucketsOf(ctx context.Context, database, kind string) ([]string, error) {
	db, err := m.existingFile(ctx, database)
	if err != nil {
		return nil, err
	}
	buckets, err := db.Namespaces(kind)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", database, err)
	}
	return buckets, nil
}

// Close stops the stores and brokers, waits for them at most until ctx ends, and closes the files, which takes as long
// as the writes that were already taken. Later calls return the same.
func (m *Manager) Close(ctx context.Context) error {
	m.closeOnce.Do(func() { m.closeErr = m.close(ctx) })
	return m.closeErr
}

func (m *Manager) close(ctx context.Context) error {
	var all error
	var mu sync.Mutex
	var closing sync.WaitGroup
	stop := func(what string, ns namespace, close func(context.Context) error) {
		closing.Go(func() {
			if err := close(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				all = errors.Join(all, fmt.Errorf("close %s of database %s, bucket %s: %w", what, ns.database, ns.bucket, err))
			}
		})
	}
	for ns, b := range m.natsBrokers.close() {
		stop("broker on nats", ns.namespace, b.Close)
	}
	for ns, b := range m.brokers.close() {
		stop("broker", ns, b.Close)
	}
	for ns, s := range m.stores.close() {
		stop("state store", ns, s.Close)
	}
	for ns, s := range m.clusterStores.close() {
		stop("state store in etcd", ns.namespace, s.Close)
	}
	closing.Wait()
	for _, db := range m.files.close() {
		all = errors.Join(all, db.Close())
	}
	for _, cluster := range m.clusters.close() {
		all = errors.Join(all, cluster.Close())
	}
	return all
}

func (m *Manager) openFile(ctx context.Context, database string) (*boltdb.DB, error) {
	return boltdb.Open(ctx, FilePath(m.opts.Dir, database), boltdb.Options{Logger: m.opts.Logger, Committed: m.opts.Metrics.Commits(database)})
}

func (m *Manager) openStore(ctx context.Context, ns namespace) (*statestore.Store, error) {
	db, err := m.files.get(ctx, ns.database)
	if err != nil {
		return nil, err
	}
	engine, err := stateengine.New(db, ns.bucket)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", ns.database, err)
	}
	return statestore.New(engine, statestore.Options{Clock: m.opts.Clock, Logger: m.logger(ns)})
}

func (m *Manager) openBroker(ctx context.Context, ns namespace) (pubsub.Service, error) {
	db, err := m.files.get(ctx, ns.database)
	if err != nil {
		return nil, err
	}
	engine, err := pubsubengine.New(ctx, db, ns.bucket)
	if err != nil {
		return nil, fmt.Errorf("database %s: open pub/sub bucket %s: %w", ns.database, ns.bucket, err)
	}
	return pubsub.NewBroker(ctx, engine, pubsub.Options{
		Clock:      m.opts.Clock,
		Logger:     m.logger(ns),
		Budget:     m.budget,
		Totals:     &m.opts.Metrics.Totals,
		Timings:    m.opts.Metrics.Timings(ns.database, ns.bucket),
		NameLimits: m.opts.Names,
	})
}

func (m *Manager) logger(ns namespace) *slog.Logger {
	return m.opts.Logger.With("database", ns.database, "bucket", ns.bucket)
}

// existingFile returns a database that is open or lies in the directory.
func (m *Manager) existingFile(ctx context.Context, database string) (*boltdb.DB, error) {
	if db, ok := m.files.made()[database]; ok {
		return db, nil
	}
	_, err := os.Stat(FilePath(m.opts.Dir, database))
	if errors.Is(err, fs.ErrNotExist) {
		names, err := m.names()
		if err != nil {
			return nil, err
		}
		return nil, &missingError{fmt.Sprintf("there is no database %q: there is %s", database, listed(names))}
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", database, err)
	}
	return m.files.get(ctx, database)
}

// names lists the databases that the directory holds, or that are open although they were removed from it.
func (m *Manager) names() ([]string, error) {
	entries, err := os.ReadDir(m.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("list data directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), fileSuffix); ok && CheckName("database", name) == nil {
			names = append(names, name)
		}
	}
	names = slices.AppendSeq(names, maps.Keys(m.files.made()))
	slices.Sort(names)
	return slices.Compact(names), nil
}

// missingError says what is not there, and what is. It is an fs.ErrNotExist.
type missingError struct{ text string }

func (e *missingError) Error() string { return e.text }

func (e *missingError) Is(target error) bool { return target == fs.ErrNotExist }

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
