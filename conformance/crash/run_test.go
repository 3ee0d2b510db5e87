package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	// patience bounds each wait for something that must happen.
	patience = 10 * time.Minute
	poll     = 2 * time.Millisecond
	slowPoll = 50 * time.Millisecond
)

// Options for Run. Bolt and Kills are required.
type Options struct {
	// Bolt is the process to kill, running and ready. It is stopped when Run returns without an error.
	Bolt *harness.Bolt
	// Kills is how often.
	Kills int
	// Victim is what is killed and started, where that is more than the process. Default: Bolt.
	Victim Victim
	// MostAcks bounds how much is acknowledged between two kills. Default: 2000.
	MostAcks int
	// Excuses reports whether an error is one that a call may get now, such as that of a disk which is made to fail. What
	// was asked for must then not have happened. Default: none is.
	Excuses func(error) bool
	// UntilBroken ends the kills when a promise is seen to be broken.
	UntilBroken bool
	// Socket is what the clients call. Default: the process's own.
	Socket string
	// Progress hears how far it has come. Default: nobody.
	Progress io.Writer
}

// Victim is what can be killed, and started again.
type Victim interface {
	// Kill ends it at once.
	Kill()
	// Start begins to start it, and Restart waits until it is ready as well.
	Start() error
	Restart(ctx context.Context) error
}

// run is what the clients of one Run share.
type run struct {
	Options
	socket string
	found  *findings
	keys   *keyBook
	events *eventBook

	// acked counts what was acknowledged, either way; a kill waits for some of it.
	acked, unanswered atomic.Int64
	// life counts the lives of the process.
	life   atomic.Int64
	failed chan error

	producers, consumers sync.WaitGroup
	clients              []*harness.Client
	report               Report
}

// Run kills the process in the middle of concurrent writes, publishes and deliveries, again and again, and says what
// became of all that was acknowledged. The error is for when it could not find out: the process did not come back, or
// gave an answer that is no client's fault.
func Run(ctx context.Context, opts Options) (*Report, error) {
	r := &run{Options: opts, socket: opts.Socket, found: &findings{}, failed: make(chan error, 64)}
	if r.socket == "" {
		r.socket = filepath.Join(opts.Bolt.SocketDir, "bolt.sock")
	}
	if r.Progress == nil {
		r.Progress = io.Discard
	}
	if r.Victim == nil {
		r.Victim = opts.Bolt
	}
	if r.Excuses == nil {
		r.Excuses = func(error) bool { return false }
	}
	if r.MostAcks == 0 {
		r.MostAcks = 2000
	}
	r.keys, r.events = newKeyBook(r.found), newEventBook(r.found)
	r.life.Store(1)
	producing, stopProducers := context.WithCancel(ctx)
	consuming, stopConsumers := context.WithCancel(ctx)
	defer func() {
		stopProducers()
		stopConsumers()
		// A client that waits for a process that is not there would wait on.
		r.closeClients()
		r.producers.Wait()
		r.consumers.Wait()
	}()

	began := time.Now()
	if err := r.start(ctx, producing, consuming); err != nil {
		return nil, err
	}
	for r.report.Kills < opts.Kills && !(opts.UntilBroken && r.found.any()) {
		if err := r.killOnce(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.waitForAcks(ctx, int64(r.MostAcks)); err != nil {
		return nil, err
	}
	stopProducers()
	r.producers.Wait()
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	stopConsumers()
	r.consumers.Wait()
	if err := r.judge(ctx); err != nil {
		return nil, err
	}
	r.report.Duration = time.Since(began)
	return &r.report, r.failure()
}

func (r *run) client(component string) (*harness.Client, error) {
	c, err := harness.Dial(r.socket, component)
	if err == nil {
		r.clients = append(r.clients, c)
	}
	return c, err
}

func (r *run) closeClients() {
	for _, c := range r.clients {
		_ = c.Close()
	}
	r.clients = nil
}

// start initializes the components, opens every group, and then lets all clients work.
func (r *run) start(ctx, producing, consuming context.Context) error {
	store, err := r.client("store")
	if err != nil {
		return err
	}
	if err := store.InitState(ctx); err != nil {
		return fmt.Errorf("initialize the state store: %w", err)
	}
	// No id may be forgotten before the run is over.
	publishing := []string{"consumerID", "publishers", "dedupWindow", "24h"}
	var sides [2]*harness.Client
	for i := range sides {
		if sides[i], err = r.client("publishers"); err != nil {
			return err
		}
		if err := sides[i].InitPubSub(ctx, publishing...); err != nil {
			return fmt.Errorf("initialize the publishers' component: %w", err)
		}
	}
	if err := r.openGroups(ctx); err != nil {
		return err
	}
	for i := range groups {
		for range groups[i].streams {
			c := &consumer{run: r, spec: &groups[i]}
			r.work(&r.consumers, consuming, c.work)
		}
	}
	for i := range writers {
		w := &writer{run: r, client: store, name: fmt.Sprintf("writer-%d", i), old: make(map[string]string)}
		r.work(&r.producers, producing, w.work)
	}
	for _, topic := range []string{plainTopic, keyedTopic} {
		for i := range publishersOfTopic {
			p := &publisher{run: r, client: sides[0], rival: sides[1], topic: topic, name: fmt.Sprintf("%s-publisher-%d", topic, i)}
			r.work(&r.producers, producing, p.work)
		}
	}
	return nil
}

func (r *run) work(group *sync.WaitGroup, ctx context.Context, work func(context.Context) error) {
	group.Go(func() {
		if err := work(ctx); err != nil {
			select {
			case r.failed <- err:
			default:
			}
		}
	})
}

// openGroups has every group known on disk before the first event.
func (r *run) openGroups(ctx context.Context) error {
	for _, topic := range []string{plainTopic, keyedTopic} {
		if err := r.openGroup(ctx, &groupSpec{name: auditor, topic: topic}); err != nil {
			return err
		}
	}
	for i := range groups {
		if err := r.openGroup(ctx, &groups[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) openGroup(ctx context.Context, spec *groupSpec) error {
	consumer := &consumer{run: r, spec: spec}
	c, err := harness.Dial(r.socket, consumer.component())
	if err != nil {
		return err
	}
	defer c.Close()
	settings := append([]string{"consumerID", spec.name, "backOff", "5ms", "ackWait", "10m"}, spec.settings...)
	if err := c.InitPubSub(ctx, settings...); err != nil {
		return fmt.Errorf("initialize the component of group %s: %w", spec.name, err)
	}
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := c.Pull(streaming, spec.topic); err != nil {
		return err
	}
	return r.eventually(ctx, patience, "group "+spec.name+" of topic "+spec.topic, func() (bool, error) {
		topics, err := r.topics(ctx)
		_, there := topics[spec.topic][spec.name]
		return there, err
	})
}

// owed is what `dapr-bolt topics` says of a group.
type owed struct {
	Group                       string
	Waiting, InFlight, Retrying int
	Dead                        int
}

func (r *run) topics(ctx context.Context) (map[string]map[string]owed, error) {
	var list []struct {
		Topic  string
		Groups []owed
	}
	if err := r.Bolt.Command(ctx, &list, "topics"); err != nil {
		return nil, err
	}
	topics := make(map[string]map[string]owed)
	for _, t := range list {
		topics[t.Topic] = make(map[string]owed)
		for _, g := range t.Groups {
			topics[t.Topic][g.Group] = g
		}
	}
	return topics, nil
}

func (r *run) failure() error {
	select {
	case err := <-r.failed:
		return err
	default:
		return nil
	}
}

// eventually polls until the condition holds.
func (r *run) eventually(ctx context.Context, within time.Duration, what string, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		done, err := condition()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", what, err)
		case done:
			return nil
		}
		if err := r.failure(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: not within %s", what, within)
		}
		pause(ctx, slowPoll)
	}
}

func (r *run) waitForAcks(ctx context.Context, n int64) error {
	target := r.acked.Load() + n
	deadline := time.Now().Add(patience)
	for r.acked.Load() < target {
		if err := errors.Join(r.failure(), ctx.Err()); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d acknowledgements: not within %s", n, patience)
		}
		pause(ctx, poll)
	}
	return nil
}
