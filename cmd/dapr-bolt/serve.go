package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/internal/component"
	"github.com/dapr-bolt/dapr-bolt/internal/console"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/internal/resubscribe"
	"github.com/dapr-bolt/dapr-bolt/internal/sidecars"
	"github.com/dapr-bolt/dapr-bolt/internal/tracing"
)

const (
	// stopWithin bounds a clean stop: streams are drained, acknowledgements committed, files closed.
	stopWithin = 10 * time.Second
	// drainWithin is what of it the apps get to acknowledge what is in flight. The rest is for writing that down.
	drainWithin = 7 * time.Second
	// endWithin is what a stop that was cut short gets to let go of what it holds.
	endWithin = time.Second
)

// process is everything that runs.
type process struct {
	log *slog.Logger

	mu sync.Mutex
	// parts stand in the order in which they were started, and are stopped in reverse.
	parts []part

	metrics   *metrics.Metrics
	databases *databases.Manager
	component atomic.Pointer[component.Server]
	health    atomic.Pointer[admin.Health]
	console   atomic.Pointer[console.Console]
	// failed gets the error of a component server that ended by itself.
	failed chan error
}

type part struct {
	stop func(ctx context.Context) error
	// socket is the file that the part removes when it stops; empty: there is none.
	socket string
}

// httpAddress is empty where there is no listener.
func (p *process) httpAddress() string {
	if health := p.health.Load(); health != nil {
		return health.Addr()
	}
	return ""
}

func (p *process) add(added part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts = append(p.parts, added)
}

// serve runs until ctx ends, which is a clean stop, until work returns (nil: there is none), or until the process cannot
// serve any more. What ends it ends the context of work first, and waits for it.
func (c *cli) serve(ctx context.Context, work func(ctx context.Context) error) error {
	p := &process{log: newLogger(c.errOut, c.logLevel, c.logJSON), failed: make(chan error, 1)}
	outcome := "could not start"
	err := c.start(ctx, p)
	switch {
	case err == nil:
		outcome = "stopped with an error"
		if work == nil {
			work = func(ctx context.Context) error { <-ctx.Done(); return nil }
		}
		err = p.during(ctx, work)
		if ctx.Err() != nil {
			p.log.Info("stopping: streams are drained and files closed", "cause", context.Cause(ctx).Error(), "within", stopWithin.String())
		}
	case ctx.Err() != nil:
		err = nil // it was stopped while it was starting
	}
	if err = errors.Join(remedied(err), p.stop()); err != nil {
		p.log.Error(outcome, "error", err)
		return &loggedError{err}
	}
	p.log.Info("stopped")
	return nil
}

// remedied adds what to do about a file that cannot be served.
func remedied(err error) error {
	switch {
	case errors.Is(err, boltdb.ErrLocked):
		return fmt.Errorf("%w: stop it first, or choose another --data-dir", err)
	case errors.Is(err, boltdb.ErrFormat):
		return fmt.Errorf("%w: unless another version wrote it, it is damaged: dapr-bolt restore puts a backup in its place", err)
	}
	return err
}

// during runs work, and ends it when the process cannot serve any more.
func (p *process) during(ctx context.Context, work func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	worked := make(chan error, 1)
	go func() { worked <- work(ctx) }()
	select {
	case err := <-worked:
		return err
	case err := <-p.failed:
		cancel()
		return errors.Join(err, <-worked)
	}
}

// start brings up the parts in the order in which they need each other. The component's socket comes last: a sidecar
// that finds it must find everything working.
func (c *cli) start(ctx context.Context, p *process) (err error) {
	info := admin.Info{Version: version(), Started: c.clock.Now(), DataDir: c.dataDir}

	spans := tracing.Open(ctx, tracing.Options{Version: info.Version, Logger: p.log, Clock: c.clock})
	p.add(part{stop: spans.Close}) // after everything that makes spans

	p.metrics = metrics.New()
	p.databases, err = databases.Open(ctx, databases.Options{
		Dir:             c.dataDir,
		Metrics:         p.metrics,
		MaxDatabases:    c.maxDatabases,
		MaxPendingBytes: int64(c.maxPendingBytes),
		Names:           c.names,
		Clock:           c.clock,
		Logger:          p.log,
	})
	if err != nil {
		return err
	}
	p.add(part{stop: p.databases.Close})
	// Most sidecars work on these; what is wrong with them must show before one comes.
	if _, err := p.databases.StateStore(ctx, databases.DefaultDatabase, databases.DefaultStateBucket); err != nil {
		return err
	}
	if _, err := p.databases.Broker(ctx, databases.DefaultDatabase, databases.DefaultPubSubBucket); err != nil {
		return err
	}

	known, err := sidecars.Open(sidecars.Options{Dir: c.dataDir, Clock: c.clock, Logger: p.log})
	if err != nil {
		return err
	}
	service := admin.NewService(admin.ServiceOptions{
		Databases: p.databases,
		Ready:     p.ready,
		Info: func() admin.Info {
			info := info
			if server := p.component.Load(); server != nil {
				info.Socket = server.SocketPath()
			}
			info.HTTP = p.httpAddress()
			if shown := p.console.Load(); shown != nil {
				info.Console, info.ConsoleTokenFile = shown.URL(), c.consoleTokenFile()
			}
			return info
		},
		Sidecars: known,
		Metrics:  p.metrics,
		Clock:    c.clock,
		Logger:   p.log,
	})
	p.add(part{stop: service.Close})
	if c.httpListen != "" {
		if err := c.serveHTTP(ctx, p, service); err != nil {
			return err
		}
	}

	adminServer, err := admin.Listen(ctx, admin.Options{Path: c.adminSocket(), Service: service, Logger: p.log})
	if err != nil {
		return err
	}
	p.add(part{stop: adminServer.Stop, socket: c.adminSocket()})

	server, err := component.Listen(ctx, component.Options{
		Name:      c.name,
		SocketDir: c.socketDir,
		SocketGID: c.socketGID,
		Allow:     c.allow,
		Sidecars:  known,
		Backend:   p.databases,

		MaxConnections:  c.maxConnections,
		MaxStreams:      c.maxStreams,
		MaxCalls:        c.maxCalls,
		MaxRequestBytes: int64(c.maxRequestBytes),
		Logger:          p.log,
		Clock:           c.clock,
		Metrics:         p.metrics,
		Tracer:          spans.Tracer(),
	})
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(); err != nil {
			p.failed <- err
		}
	})
	p.add(part{socket: server.SocketPath(), stop: func(ctx context.Context) error {
		draining, cancel := context.WithTimeout(ctx, drainWithin)
		defer cancel()
		err := server.Stop(draining)
		serving.Wait()
		return err
	}})
	p.component.Store(server)
	p.add(c.bringSubscriptionsBack(known, p.log))

	p.log.Info("serving",
		"socket", server.SocketPath(),
		"types", "state."+c.name+", pubsub."+c.name,
		"file", databases.FilePath(c.dataDir, databases.DefaultDatabase),
		"admin", c.adminSocket(),
		"http", p.httpAddress(),
		"pid", os.Getpid())
	c.sayLink(p)
	return nil
}

// apiTokenVariable holds what a sidecar wants to see of its callers.
const apiTokenVariable = "DAPR_API_TOKEN"

// bringSubscriptionsBack does so in the background, with what the apps were subscribed to when the last process ended.
func (c *cli) bringSubscriptionsBack(known *sidecars.Registry, log *slog.Logger) part {
	ctx, cancel := context.WithCancel(context.Background())
	token, _ := c.lookupEnv(apiTokenVariable)
	var running sync.WaitGroup
	running.Go(func() {
		resubscribe.Run(ctx, resubscribe.Options{
			Sidecars:      known,
			ComponentType: "pubsub." + c.name,
			Files:         c.resubscribe,
			Sidecar:       c.restartSidecar,
			APIToken:      token,
			Clock:         c.clock,
			Logger:        log,
		})
	})
	return part{stop: func(context.Context) error {
		cancel()
		running.Wait()
		return nil
	}}
}

// stop ends everything within stopWithin, or at once on another signal. Whatever happens, no socket stays behind: a
// sidecar that meets one which nobody serves hangs at its start.
func (p *process) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	again := make(chan os.Signal, 1)
	signal.Notify(again, terminationSignals...)
	defer signal.Stop(again)

	stopped := make(chan error, 1)
	go func() { stopped <- p.stopParts(ctx) }()
	var why string
	select {
	case err := <-stopped:
		return err
	case s := <-again:
		why = fmt.Sprintf("by another signal (%s)", s)
		cancel()
	case <-ctx.Done():
		why = fmt.Sprintf("after %s", stopWithin)
	}
	// What is left over ends with the process; what was acknowledged is on disk.
	select {
	case <-stopped:
	case <-time.After(endWithin):
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, left := range p.parts {
			if left.socket != "" {
				if err := os.Remove(left.socket); err != nil {
					p.log.Warn("a socket may have been left behind", "error", err)
				}
			}
		}
	}
	return fmt.Errorf("the stop was cut short %s", why)
}

func (p *process) stopParts(ctx context.Context) (err error) {
	for {
		p.mu.Lock()
		last := len(p.parts) - 1
		if last < 0 {
			p.mu.Unlock()
			return err
		}
		part := p.parts[last]
		p.mu.Unlock()

		err = errors.Join(err, part.stop(ctx))

		p.mu.Lock()
		p.parts = p.parts[:last]
		p.mu.Unlock()
	}
}

// checkHealth reports whether sidecars are served and what they write is kept.
func (p *process) checkHealth(ctx context.Context) databases.Health {
	server := p.component.Load()
	if server == nil {
		return databases.Health{Err: errors.New("the component's socket is not served yet")}
	}
	h := p.databases.Health(ctx)
	h.Err = errors.Join(server.Ready(), h.Err)
	return h
}

// ready returns what checkHealth has found wrong.
func (p *process) ready(ctx context.Context) error { return p.checkHealth(ctx).Err }
