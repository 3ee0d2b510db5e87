package performance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/components-contrib/pubsub/jetstream"
	redispubsub "github.com/dapr/components-contrib/pubsub/redis"
	"github.com/dapr/components-contrib/state"
	redisstate "github.com/dapr/components-contrib/state/redis"
	"github.com/dapr/components-contrib/state/sqlite"
	pubsubadapter "github.com/dapr/dapr/pkg/components/pubsub"
	stateadapter "github.com/dapr/dapr/pkg/components/state"
	"github.com/dapr/kit/logger"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// The peers. Ours is measured against the others.
const (
	peerOurs      = "dapr-bolt"
	peerBase      = "another build"
	peerRedis     = "Redis"
	peerSQLite    = "SQLite"
	peerJetStream = "JetStream"
	peerBare      = "a bare gRPC server"
	peerPostgres  = "PostgreSQL"
	peerDisk      = "the file system"
)

// components are who can be asked for sets and publishes, in the order of the table.
var components = []string{peerOurs, peerBase, peerBare, peerRedis, peerSQLite, peerJetStream, peerThree, peerDapr, peerPostgres}

// consumerGroup is the app's id, which a sidecar adds to a pub/sub's metadata.
const consumerGroup = "bench"

// peer is who is measured: the calls that it takes, nil where it has none.
type peer struct {
	name      string
	set       func(ctx context.Context, key string, value []byte) error
	get       func(ctx context.Context, key string) ([]byte, error)
	ping      func() error
	twoSyncs  func(n int) error
	publish   func(ctx context.Context, topic string, data []byte) error
	subscribe func(ctx context.Context, topic string, handle func(data []byte)) error
	// settled says what of a topic is not acknowledged with the broker; nil: it cannot be asked.
	settled func(ctx context.Context, topic string) error
	// process is its own, whose use of processor and disk is counted; nil: it has none.
	process *harness.Process
}

// env is where peers live: on the disk that is to be measured, and gone afterwards.
type env struct {
	*harness.Harness
	closers []func() error // run in reverse order
}

func (b *bench) newEnv() (*env, error) {
	dir, err := os.MkdirTemp(b.opts.Dir, "env-")
	if err != nil {
		return nil, err
	}
	h, err := harness.New(harness.Options{Dir: dir})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &env{h, []func() error{func() error { return os.RemoveAll(dir) }, h.Close}}, nil
}

func (e *env) onClose(f func() error) { e.closers = append(e.closers, f) }

func (e *env) Close() error {
	var errs []error
	for _, f := range slices.Backward(e.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// folder makes one for a server's data.
func (e *env) folder(name string) (string, error) {
	dir := e.Dir(name)
	return dir, os.MkdirAll(dir, 0o700)
}

// openPeers opens all that can be opened here, each in an environment of its own, and notes why others are missing. The
// returned function closes them.
func (b *bench) openPeers(ctx context.Context) (peers []*peer, closeAll func() error, err error) {
	var all env
	for _, of := range []struct {
		name, settings string
		missing        string
		open           func(context.Context, *env, *peer) error
	}{
		{peerOurs, "defaults; behind its Unix socket, through the runtime's adapters", "", b.openBolt(b.bolt)},
		{peerBase, "the same", b.baseMissing(), b.openBolt(b.opts.Base)},
		{peerBare, bareSettings, "", openBare},
		{peerRedis, redisSettings, redisMissing(), openRedis},
		{peerSQLite, "write-ahead log (its default), synchronous(FULL); in the benchmark's process", "", openSQLite},
		{peerJetStream, "sync always; server on 127.0.0.1 in the benchmark's process, file storage", "", openJetStream},
		{peerDisk, "a file of 64 MiB that is written over", "", openDisk},
	} {
		if of.missing != "" {
			b.miss(of.name, of.missing)
			continue
		}
		e, err := b.newEnv()
		if err != nil {
			return nil, all.Close, err
		}
		all.onClose(e.Close)
		p := &peer{name: of.name}
		if err := of.open(ctx, e, p); err != nil {
			return nil, all.Close, fmt.Errorf("open %s: %w", of.name, err)
		}
		peers, b.results.Peers[of.name] = append(peers, p), of.settings
	}
	return peers, all.Close, nil
}

// miss notes why a peer is not measured.
func (b *bench) miss(peer, why string) {
	b.results.Missing[peer] = why
	b.progress("%s is not measured: %s", peer, why)
}

func (b *bench) baseMissing() string {
	if b.opts.Base == "" {
		return "name a commit: `BASE=<commit> make bench`"
	}
	return ""
}

// useStore initialises a state store and takes its calls.
func (p *peer) useStore(ctx context.Context, e *env, store state.Store, metadata map[string]string) error {
	m := state.Metadata{}
	m.Name, m.Properties = "store", metadata
	if err := store.Init(ctx, m); err != nil {
		return err
	}
	e.onClose(store.Close)
	p.set = func(ctx context.Context, key string, value []byte) error {
		return store.Set(ctx, &state.SetRequest{Key: key, Value: value})
	}
	p.get = func(ctx context.Context, key string) ([]byte, error) {
		got, err := store.Get(ctx, &state.GetRequest{Key: key})
		if err != nil {
			return nil, err
		}
		return got.Data, nil
	}
	return nil
}

// useBroker initialises a pub/sub and takes its calls.
func (p *peer) useBroker(ctx context.Context, e *env, broker contribpubsub.PubSub, metadata map[string]string) error {
	m := contribpubsub.Metadata{}
	m.Name, m.Properties = "pubsub", metadata
	m.Properties["consumerID"] = consumerGroup
	if err := broker.Init(ctx, m); err != nil {
		return err
	}
	e.onClose(broker.Close)
	p.publish = func(ctx context.Context, topic string, data []byte) error {
		return broker.Publish(ctx, &contribpubsub.PublishRequest{Topic: topic, Data: data})
	}
	p.subscribe = func(ctx context.Context, topic string, handle func([]byte)) error {
		return broker.Subscribe(ctx, contribpubsub.SubscribeRequest{Topic: topic}, func(_ context.Context, m *contribpubsub.NewMessage) error {
			handle(m.Data)
			return nil
		})
	}
	return nil
}

// useSocket takes the calls of a component behind a socket, through the runtime's adapters.
func (p *peer) useSocket(ctx context.Context, e *env, socket string, ofStore, ofBroker map[string]string) error {
	store := stateadapter.NewGRPCStateStore(silent, socket)
	p.ping = store.Ping
	return errors.Join(
		p.useStore(ctx, e, store, ofStore),
		p.useBroker(ctx, e, pubsubadapter.NewGRPCPubSub(silent, socket), ofBroker))
}

// silent keeps a peer's log out of the report: what it says when its server goes away is not ours to show.
var silent = func() logger.Logger {
	l := logger.NewLogger("bench")
	l.SetOutputLevel(logger.FatalLevel)
	return l
}()

func (b *bench) openBolt(path string) func(context.Context, *env, *peer) error {
	return func(ctx context.Context, e *env, p *peer) error {
		bolt, err := e.StartBolt(ctx, harness.BoltOptions{Path: path})
		if err != nil {
			return err
		}
		p.process = bolt.Process
		// Its acks have no answer of their own.
		p.settled = func(ctx context.Context, topic string) error {
			var topics []struct {
				Topic  string
				Groups []map[string]any
			}
			if err := bolt.Command(ctx, &topics, "topics"); err != nil {
				return err
			}
			for _, t := range topics {
				for _, g := range t.Groups {
					// Builds differ in what they call those in flight.
					for _, name := range []string{"waiting", "inHand", "inFlight", "delayed"} {
						if left, _ := g[name].(float64); t.Topic == topic && left > 0 {
							return fmt.Errorf("%.0f events of topic %s are %s still", left, topic, name)
						}
					}
				}
			}
			return nil
		}
		return p.useSocket(ctx, e, filepath.Join(bolt.SocketDir, "bolt.sock"), map[string]string{}, map[string]string{})
	}
}

func openSQLite(ctx context.Context, e *env, p *peer) error {
	dir, err := e.folder("sqlite")
	if err != nil {
		return err
	}
	return p.useStore(ctx, e, sqlite.NewSQLiteStateStore(silent), map[string]string{
		"connectionString": fmt.Sprintf("file:%s?_pragma=synchronous(FULL)", filepath.Join(dir, "state.db")),
	})
}

const (
	redisServer   = "redis-server"
	redisSettings = "AOF, appendfsync always, no snapshots; server on 127.0.0.1, called directly"
)

func redisMissing() string {
	if _, err := exec.LookPath(redisServer); err != nil {
		return redisServer + " is not installed (`apt-get install redis-server`, `brew install redis`)"
	}
	return ""
}

// startRedis returns the metadata of its components.
func startRedis(ctx context.Context, e *env) (*harness.Server, map[string]string, error) {
	path, err := exec.LookPath(redisServer)
	if err != nil {
		return nil, nil, err
	}
	dir, err := e.folder("redis")
	if err != nil {
		return nil, nil, err
	}
	port, err := e.FreePort()
	if err != nil {
		return nil, nil, err
	}
	redis, err := e.StartServer(harness.ServerOptions{
		Name: "redis",
		Path: path,
		Args: []string{
			"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir,
			"--appendonly", "yes", "--appendfsync", "always", "--save", "",
		},
		Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
	})
	if err != nil {
		return nil, nil, err
	}
	return redis, map[string]string{"redisHost": redis.Address, "redisPassword": ""}, redis.WaitReady(ctx)
}

func openRedis(ctx context.Context, e *env, p *peer) error {
	redis, metadata, err := startRedis(ctx, e)
	if err != nil {
		return err
	}
	p.process = redis.Process
	return errors.Join(
		p.useStore(ctx, e, redisstate.NewRedisStateStore(silent), maps.Clone(metadata)),
		p.useBroker(ctx, e, redispubsub.NewRedisStreams(silent), metadata))
}

func openJetStream(ctx context.Context, e *env, p *peer) error {
	dir, err := e.folder("jetstream")
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, SyncAlways: true, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	e.onClose(func() error {
		s.Shutdown()
		s.WaitForShutdown()
		return nil
	})
	if !s.ReadyForConnections(startTimeout) {
		return errors.New("the NATS server did not start")
	}
	if err := addStream(s.ClientURL(), 1); err != nil {
		return err
	}
	return p.useBroker(ctx, e, jetstream.NewJetStream(silent), map[string]string{"natsURL": s.ClientURL()})
}

// startTimeout is far more than a server takes to start.
const startTimeout = 2 * time.Minute

const (
	diskPage = 4 << 10
	diskFile = 64 << 20
	// commitPages are what bbolt writes for one small set among 10,000 before its first sync: the value's leaf, two branches,
	// the file's root, and the list of free pages.
	commitPages = 5
)

func openDisk(_ context.Context, e *env, p *peer) error {
	file, err := newDiskFile(e.Dir("disk"))
	if err != nil {
		return err
	}
	e.onClose(file.Close)
	page := make([]byte, diskPage)
	write := func(n int) error {
		_, err := file.WriteAt(page, int64(n)*diskPage%diskFile)
		return err
	}
	p.twoSyncs = func(n int) error {
		for i := range commitPages {
			if err := write(2 + (n*commitPages+i)*7); err != nil {
				return err
			}
		}
		return errors.Join(dataSync(file), write(n%2), dataSync(file))
	}
	return nil
}

// newDiskFile creates a file of diskFile bytes that are on disk: growing a file costs more than writing to it.
func newDiskFile(path string) (*os.File, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	// What is written at once, Linux may keep in memory as one piece, and counts all of it as written for each part of it that
	// is written later.
	block := make([]byte, diskPage)
	for at := int64(0); at < diskFile; at += int64(len(block)) {
		if _, err := file.WriteAt(block, at); err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
	if err := file.Sync(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
