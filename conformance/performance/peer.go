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
	"strconv"
	"sync/atomic"
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
	peerBare      = "a bare gRPC server"
	peerRedis     = "Redis"
	peerSQLite    = "SQLite"
	peerJetStream = "JetStream"
	peerThree     = "three dapr-bolts"
	peerDapr      = "Dapr's own"
	peerPostgres  = "PostgreSQL"
	peerDisk      = "the file system"
)

// components are who can be asked for sets and publishes, in the order of the table.
var components = []string{peerOurs, peerBase, peerBare, peerRedis, peerSQLite, peerJetStream, peerThree, peerDapr, peerPostgres}

// settings are what the report says of them.
var settings = map[string]string{
	peerOurs:      "defaults; behind its Unix socket, through the runtime's adapters",
	peerBase:      "the same",
	peerBare:      "one sync for all who wait, appended to a log, or one transaction on etcd; no ETags, ids, retries or limits",
	peerRedis:     "AOF, appendfsync always, no snapshots; server on 127.0.0.1, called directly",
	peerSQLite:    "write-ahead log (its default), synchronous(FULL); in the benchmark's process",
	peerJetStream: "sync always; server on 127.0.0.1 in the benchmark's process, file storage",
	peerThree:     "each behind its Unix socket, called in turn; with duplicates by id, as with one",
	peerDapr:      "`state.etcd` and `pubsub.jetstream` (which knows no duplicates) on the same servers, in the benchmark's process or in a sidecar",
	peerPostgres:  "fsync and synchronous_commit on; one server on 127.0.0.1, called with 64 connections",
	peerDisk:      "a file of 64 MiB that is written over",
}

// consumerGroup is the app's id, which a sidecar adds to a pub/sub's metadata.
const consumerGroup = "bench"

// peer is who is measured: the calls that it takes, nil where it has none.
type peer struct {
	// Harness is where it lives: on the disk that is to be measured.
	*harness.Harness
	bench     *bench
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

// newPeer makes one that is gone at the end of the part.
func (b *bench) newPeer(name string) (*peer, error) {
	dir, err := os.MkdirTemp(b.opts.Dir, "env-")
	if err != nil {
		return nil, err
	}
	b.onClose(func() error { return os.RemoveAll(dir) })
	h, err := harness.New(harness.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	b.onClose(h.Close)
	return &peer{Harness: h, bench: b, name: name}, nil
}

// opener is how to start a peer and give it its calls, or why that cannot be done here.
type opener struct {
	name, missing string
	open          func(context.Context, *peer) error
}

// open opens those that can be opened here, and notes why others are missing.
func (b *bench) open(ctx context.Context, openers ...opener) (peers []*peer, err error) {
	for _, of := range openers {
		if of.missing != "" {
			b.results.Missing[of.name] = of.missing
			b.progress("%s is not measured: %s", of.name, of.missing)
			continue
		}
		p, err := b.newPeer(of.name)
		if err == nil {
			err = of.open(ctx, p)
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", of.name, err)
		}
		peers, b.results.Peers[of.name] = append(peers, p), settings[of.name]
	}
	return peers, nil
}

func (b *bench) baseMissing() string {
	if b.opts.Base == "" {
		return "name a commit: `BASE=<commit> make bench`"
	}
	return ""
}

// useStore initialises a state store and takes its calls.
func (p *peer) useStore(ctx context.Context, store state.Store, metadata map[string]string) error {
	m := state.Metadata{}
	m.Name, m.Properties = "store", maps.Clone(metadata)
	if err := store.Init(ctx, m); err != nil {
		return err
	}
	p.bench.onClose(store.Close)
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
func (p *peer) useBroker(ctx context.Context, broker contribpubsub.PubSub, metadata map[string]string) error {
	m := contribpubsub.Metadata{}
	m.Name, m.Properties = "pubsub", map[string]string{"consumerID": consumerGroup}
	maps.Copy(m.Properties, metadata)
	if err := broker.Init(ctx, m); err != nil {
		return err
	}
	p.bench.onClose(broker.Close)
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
func (p *peer) useSocket(ctx context.Context, name string, ofStore, ofBroker map[string]string) error {
	socket := filepath.Join(p.SocketDir(), name)
	store := stateadapter.NewGRPCStateStore(silent, socket)
	p.ping = store.Ping
	return errors.Join(p.useStore(ctx, store, ofStore), p.useBroker(ctx, pubsubadapter.NewGRPCPubSub(silent, socket), ofBroker))
}

// inTurn takes sets and publishes, and has one of the others do each.
func (p *peer) inTurn(others ...*peer) {
	var turn atomic.Uint64
	next := func() *peer { return others[turn.Add(1)%uint64(len(others))] }
	p.set = func(ctx context.Context, key string, value []byte) error { return next().set(ctx, key, value) }
	p.publish = func(ctx context.Context, topic string, data []byte) error { return next().publish(ctx, topic, data) }
}

// silent keeps a peer's log out of the report: what it says when its server goes away is not ours to show.
var silent = func() logger.Logger {
	l := logger.NewLogger("bench")
	l.SetOutputLevel(logger.FatalLevel)
	return l
}()

func openBolt(path string) func(context.Context, *peer) error {
	return func(ctx context.Context, p *peer) error {
		bolt, err := p.StartBolt(ctx, harness.BoltOptions{Path: path})
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
		return p.useSocket(ctx, "bolt.sock", nil, nil)
	}
}

func openSQLite(ctx context.Context, p *peer) error {
	return p.useStore(ctx, sqlite.NewSQLiteStateStore(silent), map[string]string{
		"connectionString": fmt.Sprintf("file:%s?_pragma=synchronous(FULL)", p.Dir("state.db")),
	})
}

const redisServer = "redis-server"

func redisMissing() string {
	if _, err := exec.LookPath(redisServer); err != nil {
		return redisServer + " is not installed (`apt-get install redis-server`, `brew install redis`)"
	}
	return ""
}

// startRedis returns the metadata of its components.
func startRedis(ctx context.Context, p *peer) (map[string]string, error) {
	address, err := p.startServer(ctx, redisServer, func(port string) []string {
		return []string{
			"--bind", "127.0.0.1", "--port", port, "--dir", p.Dir(),
			"--appendonly", "yes", "--appendfsync", "always", "--save", "",
		}
	})
	return map[string]string{"redisHost": address, "redisPassword": ""}, err
}

// startServer starts the peer's process, with arguments for a free port of 127.0.0.1, and waits until it takes connections
// there.
func (p *peer) startServer(ctx context.Context, program string, args func(port string) []string) (address string, err error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", err
	}
	port, err := p.FreePort()
	if err != nil {
		return "", err
	}
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	s, err := p.StartServer(harness.ServerOptions{Name: filepath.Base(program), Path: path, Args: args(strconv.Itoa(port)), Address: address})
	if err != nil {
		return "", err
	}
	p.process = s
	return address, s.WaitReady(ctx)
}

func openRedis(ctx context.Context, p *peer) error {
	metadata, err := startRedis(ctx, p)
	if err != nil {
		return err
	}
	return errors.Join(
		p.useStore(ctx, redisstate.NewRedisStateStore(silent), metadata),
		p.useBroker(ctx, redispubsub.NewRedisStreams(silent), metadata))
}

func openJetStream(ctx context.Context, p *peer) error {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: p.Dir("jetstream"), SyncAlways: true, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	p.bench.onClose(func() error {
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
	return p.useBroker(ctx, jetstream.NewJetStream(silent), map[string]string{"natsURL": s.ClientURL()})
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

func openDisk(_ context.Context, p *peer) error {
	file, err := newDiskFile(p.Dir("disk"))
	if err != nil {
		return err
	}
	p.bench.onClose(file.Close)
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
	for at := int64(0); at < diskFile && err == nil; at += diskPage {
		_, err = file.WriteAt(block, at)
	}
	if err = errors.Join(err, file.Sync()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
