package natsbroker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Options for Open.
type Options struct {
	// URL lists servers, with commas between them. Required.
	URL string
	// Username and Password, Token, Credentials (a .creds file's content) or CredentialsFile (its path, where each connection
	// reads it) say who we are; empty: the servers ask nobody.
	Username, Password, Token, Credentials, CredentialsFile string
	// TLS is called for each connection. Default: none, unless the URL says so.
	TLS func() (*tls.Config, error)
	// Prefix tells several installations on one cluster apart: letters, digits, - and _. Required.
	Prefix string
	// Bucket is the namespace. Required.
	Bucket string
	// Replicas of what is stored: 1, 3 or 5. Default: 3.
	Replicas int
	// Timeout bounds a call while no server answers. Default: 15s.
	Timeout time.Duration
	// MinPayload is what a message may have at least, in bytes; servers that take less are refused.
	MinPayload int64
	// SweepInterval is how often what every group is done with is cleaned away, and events that are too old are buried.
	// Default: 10s.
	SweepInterval time.Duration
	// AtRest is for a pubsub.Migrator: nothing is swept, and the bucket may be an unfinished copy.
	AtRest bool
	// Clock default: the real one.
	Clock clockwork.Clock
	// Logger default: slog.Default().
	Logger *slog.Logger
	// Budget is shared with the other brokers of the process. Default: one of its own, of pubsub.DefaultPendingBytes.
	Budget *pubsub.Budget
	// Totals is shared with the other brokers of the process. Default: one of its own.
	Totals *pubsub.Totals
	// Timings returns where the times of a group go. Default: nowhere.
	Timings func(group string) pubsub.Timings
	pubsub.NameLimits
}

func (o *Options) setDefaults() {
	if o.Replicas == 0 {
		o.Replicas = 3
	}
	if o.Timeout == 0 {
		o.Timeout = 15 * time.Second
	}
	if o.SweepInterval == 0 {
		o.SweepInterval = 10 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Budget == nil {
		o.Budget = pubsub.NewBudget(0)
	}
	if o.Totals == nil {
		o.Totals = &pubsub.Totals{}
	}
	if o.Timings == nil {
		o.Timings = func(string) pubsub.Timings { return pubsub.Timings{} }
	}
	o.NameLimits = o.NameLimits.WithDefaults()
}

// Broker is one process's part in a bucket. Its methods may be called from any goroutine.
type Broker struct {
	opts   Options
	layout layout
	clock  clockwork.Clock
	log    *slog.Logger
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream

	// publishes wait for the next batch.
	publishes chan *publish
	// ctx ends the goroutines that work for the broker; working counts them, and consuming those of its streams.
	ctx                context.Context
	stop               context.CancelFunc
	working, consuming sync.WaitGroup
	// purged are the sequences up to which the sweep has purged, by subject. Its goroutine alone knows them.
	purged map[string]uint64
	// watching is what watch leaves for Close to stop.
	watching jetstream.ConsumeContext

	mu     sync.Mutex
	closed bool
	topics map[string]topicRecord // by topic
	groups map[string]groupRecord // by hash of topic or pattern, and group
	// learned are the sequences of what they were read from, by subject.
	learned map[string]uint64
	// groupsAt is the sequence up to which the watch has brought groups.
	groupsAt uint64
	// created is when the stream was made from which they are; replaced is closed when there is another.
	created  time.Time
	replaced chan struct{}
	// streams are the open subscriptions; inFlight, the events that this process has and did not settle.
	streams  map[*subscription]struct{}
	inFlight map[*delivery]struct{}
	warned   map[string]struct{}
	// size is that of the stream in bytes, as of sizeAt, and what was published since.
	size   int64
	sizeAt time.Time
	// copying: an Import is under way.
	copying bool

	// counting guards what is counted since the broker was opened, by topic and by groupHash.
	counting    sync.Mutex
	topicCounts map[string]pubsub.TopicCounts
	groupCounts map[string]*pubsub.GroupCounts
}

var _ pubsub.Service = (*Broker)(nil)

// Open connects to the servers and makes the bucket's stream if it is missing. An error names the servers, or what their
// configuration lacks. The caller must Close the broker.
func Open(ctx context.Context, opts Options) (*Broker, error) {
	opts.setDefaults()
	b := &Broker{
		opts:        opts,
		layout:      newLayout(opts.Prefix, opts.Bucket),
		clock:       opts.Clock,
		log:         opts.Logger,
		publishes:   make(chan *publish, maxQueued),
		topics:      map[string]topicRecord{},
		groups:      map[string]groupRecord{},
		learned:     map[string]uint64{},
		purged:      map[string]uint64{},
		streams:     map[*subscription]struct{}{},
		inFlight:    map[*delivery]struct{}{},
		warned:      map[string]struct{}{},
		topicCounts: map[string]pubsub.TopicCounts{},
		groupCounts: map[string]*pubsub.GroupCounts{},
	}
	if err := b.connect(ctx); err != nil {
		if b.nc != nil {
			b.nc.Close()
		}
		return nil, fmt.Errorf("nats %s: %w", opts.URL, err)
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	if _, err := b.nc.Subscribe(b.layout.asking, b.answerConsumes); err != nil {
		b.nc.Close()
		return nil, fmt.Errorf("nats %s: %w", opts.URL, err)
	}
	b.working.Go(b.watch)
	for range publishers {
		b.working.Go(b.publishLoop)
	}
	b.working.Go(b.keepInFlight)
	if !opts.AtRest {
		b.working.Go(b.sweepLoop)
	}
	return b, nil
}

func (b *Broker) connect(ctx context.Context) (err error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	var told throttled.Log // by nats.ErrorHandler, of which one runs at a time
	options := []nats.Option{
		nats.Name("dapr-bolt"),
		nats.Timeout(requestTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a server that refuses us now may take us when its configuration is mended
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent fails at once, and is sent again
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if more, may := told.Allow(b.clock.Now(), time.Minute); may {
				b.log.Warn("nats", "error", err, "suppressed", more)
			}
		}),
	}
	switch {
	case b.opts.Credentials != "":
		options = append(options, nats.UserCredentialBytes([]byte(b.opts.Credentials)))
	case b.opts.CredentialsFile != "":
		options = append(options, nats.UserCredentials(b.opts.CredentialsFile))
	case b.opts.Token != "":
		options = append(options, nats.Token(b.opts.Token))
	case b.opts.Username != "":
		options = append(options, nats.UserInfo(b.opts.Username, b.opts.Password))
	}
	if b.opts.TLS != nil {
		config, err := b.opts.TLS()
		if err != nil {
			return err
		}
		// Its certificate of ours is read anew as well, by itself.
		options = append(options, nats.Secure(config), nats.ClientTLSConfig(nil, func() (*x509.CertPool, error) {
			config, err := b.opts.TLS()
			if err != nil {
				return nil, err
			}
			return config.RootCAs, nil
		}))
	}
	if b.nc, err = nats.Connect(b.opts.URL, options...); err != nil {
		return b.opts.explain(err)
	}
	// It says none when the connection has just been lost.
	if version := b.nc.ConnectedServerVersion(); version != "" {
		if err := checkVersion(version); err != nil {
			return fmt.Errorf("this is %w", err)
		}
	}
	if has := b.nc.MaxPayload(); has < b.opts.MinPayload {
		return fmt.Errorf("the servers take messages of %d bytes, and events may have %d: set `max_payload: 8MB` in the configuration of nats-server", has, b.opts.MinPayload)
	}
	if b.js, err = jetstream.New(b.nc); err != nil {
		return err
	}
	if b.stream, err = b.ensureStream(ctx); err != nil {
		return err
	}
	b.setStream(b.stream.CachedInfo().Created)
	if err := b.loadRecords(ctx); err != nil || b.opts.AtRest {
		return err
	}
	copyOf, err := b.readLast(ctx, b.layout.subject("i"))
	if err == nil && copyOf != nil {
		err = fmt.Errorf("stream %s: %w", b.layout.stream, pubsub.ErrUnfinishedCopy)
	}
	return err
}

// Servers returns by name whether each server that has the stream is there, as the stream's leader says. There are none by
// name if there is one server in all. An error means that no leader answers: most of them are away, or cannot be reached.
func (b *Broker) Servers(ctx context.Context) (map[string]bool, error) {
	if !b.nc.IsConnected() {
		return nil, b.orUnreachable(nats.ErrReconnectBufExceeded)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	info, err := b.stream.Info(ctx)
	var servers map[string]bool
	if err == nil {
		servers, err = serversOf(info)
	}
	if err != nil {
		return nil, fmt.Errorf("nats server %s: stream %s: %w", b.nc.ConnectedUrlRedacted(), b.layout.stream, err)
	}
	return servers, nil
}

// errNoLeader: servers answer, and none of them may store anything.
var errNoLeader = errors.New("it has no leader; nats-server elects none while max_file_store is reached")

// serversOf is Servers by what a server says of the stream. One that was its leader, and no other follows, still answers.
func serversOf(info *jetstream.StreamInfo) (map[string]bool, error) {
	servers := map[string]bool{}
	if info.Cluster == nil {
		return servers, nil
	}
	if info.Cluster.Leader == "" {
		return nil, errNoLeader
	}
	servers[info.Cluster.Leader] = true
	for _, peer := range info.Cluster.Replicas {
		servers[peer.Name] = !peer.Offline
	}
	return servers, nil
}

// Close implements pubsub.Service.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closed = true
	streams := slices.Collect(maps.Keys(b.streams))
	b.mu.Unlock()
	for _, s := range streams {
		s.Close()
	}
	// What is in flight goes back, which takes servers that answer.
	done := make(chan struct{})
	go func() { b.consuming.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("close broker: what is in flight is not settled yet: %w", ctx.Err())
	}
	b.stop()
	b.working.Wait()
	<-done
	b.nc.Close()
	// Before, that would have waited for servers that are away. Nor would it end with the connection if it is beginning again.
	if b.watching != nil {
		b.watching.Stop()
	}
	return err
}

func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// heartbeat is how often the server hears that an event is still in flight; serverAckWait, after which silence it gives the
// event to somebody else. A new leader took up to 18 seconds in tests.
const (
	heartbeat     = 8 * time.Second
	serverAckWait = 30 * time.Second
)

// keepInFlight tells the server of what this process has, whose ackWait is ours to watch.
func (b *Broker) keepInFlight() {
	ticker := b.clock.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.Chan():
		case <-b.ctx.Done():
			return
		}
		b.mu.Lock()
		all := slices.Collect(maps.Keys(b.inFlight))
		b.mu.Unlock()
		for _, d := range all {
			now, lost := b.clock.Now(), b.isLost(d)
			// An error means that there is no connection, which is told where it matters.
			if err := b.nc.Publish(d.reply, []byte("+WPI")); err == nil && !lost {
				b.mu.Lock()
				d.heard = now
				b.mu.Unlock()
			}
		}
	}
}

// pause waits, and reports whether the broker goes on.
func (b *Broker) pause(d time.Duration) bool {
	select {
	case <-b.clock.After(d):
		return true
	case <-b.ctx.Done():
		return false
	}
}

// countGroup changes the counts of a group.
func (b *Broker) countGroup(name string, change func(c *pubsub.GroupCounts)) {
	b.counting.Lock()
	defer b.counting.Unlock()
	c := b.groupCounts[name]
	if c == nil {
		zero := pubsub.NewGroupCounts()
		c = &zero
		b.groupCounts[name] = c
	}
	change(c)
}

// logFailure logs what the servers refused or never confirmed.
func (b *Broker) logFailure(what string, err error, args ...any) {
	if err != nil && b.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		b.log.Error(what, append(args, "error", err)...)
	}
}
