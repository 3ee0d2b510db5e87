package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/conformance/wire"
)

const (
	// patience bounds each wait for something that must happen.
	patience = 2 * time.Minute
	// settlePatience bounds the wait for the last event to be delivered.
	settlePatience = 5 * time.Minute
	poll           = 2 * time.Millisecond
	slowPoll       = 50 * time.Millisecond

	// mostAcks bounds how much is acknowledged between two kills.
	mostAcks = 2000
	// startKillEvery makes about each so many-th kill hit the process while it starts, at most startKillWithin after it
	// was started.
	startKillEvery  = 10
	startKillWithin = 100 * time.Millisecond
	// checkEvery is after how many kills the file is read page by page.
	checkEvery = 25
	// progressEvery is after how many kills a line says how far it has come.
	progressEvery = 50
)

// Options for Run. Bolt and Kills are required.
type Options struct {
	// Bolt is the process to kill, running and ready. It is stopped when Run returns without an error.
	Bolt *harness.Bolt
	// Kills is how often.
	Kills int
	// Socket is what the clients call. Default: the process's own.
	Socket string
	// Progress hears how far it has come. Default: nobody.
	Progress io.Writer
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
	clients              []*wire.Client
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
	for r.report.Kills < opts.Kills {
		if err := r.killOnce(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.waitForAcks(ctx, mostAcks); err != nil {
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

func (r *run) client(component string) (*wire.Client, error) {
	c, err := wire.Dial(r.socket, component)
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
	var sides [2]*wire.Client
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
	c, err := wire.Dial(r.socket, consumer.component())
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
	Group                    string
	Waiting, InHand, Delayed int
	Dead                     int
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

// killOnce lets the process work for a while, kills it, and starts it again.
func (r *run) killOnce(ctx context.Context) error {
	if rand.IntN(startKillEvery) == 0 && r.report.Kills > 0 {
		return r.killAtStart(ctx)
	}
	if err := r.waitForAcks(ctx, rand.Int64N(mostAcks)); err != nil {
		return err
	}
	if err := r.kill(ctx); err != nil {
		return err
	}
	return r.restart(ctx)
}

// killAtStart kills the process twice: in the middle of work, and while it comes back.
func (r *run) killAtStart(ctx context.Context) error {
	if err := r.kill(ctx); err != nil {
		return err
	}
	if r.report.Kills < r.Kills {
		if err := r.Bolt.Start(); err != nil {
			return err
		}
		pause(ctx, time.Duration(rand.Int64N(int64(startKillWithin))))
		r.report.KillsAtStart++
		if err := r.kill(ctx); err != nil {
			return err
		}
	}
	return r.restart(ctx)
}

func (r *run) kill(ctx context.Context) error {
	r.Bolt.Kill()
	r.life.Add(1)
	r.report.Kills++
	if r.report.Kills%progressEvery == 0 {
		fmt.Fprintf(r.Progress, "%d of %d kills, %d acknowledgements\n", r.report.Kills, r.Kills, r.acked.Load())
	}
	if r.report.Kills%checkEvery == 0 {
		return r.check(ctx)
	}
	return nil
}

func (r *run) restart(ctx context.Context) error {
	if err := r.Bolt.Restart(ctx); err != nil {
		return fmt.Errorf("after %d kills: %w", r.report.Kills, err)
	}
	return nil
}

// check reads the file, which no process has open, page by page.
func (r *run) check(ctx context.Context) error {
	r.report.Checks++
	var report struct {
		Sound    bool
		Problems []string
	}
	err := r.Bolt.Command(ctx, &report, "check")
	if err != nil && len(report.Problems) == 0 {
		// A file that is not sound is an error of the command as well.
		r.found.add(DamagedFile, "after %d kills: %v", r.report.Kills, err)
		return nil
	}
	for _, problem := range report.Problems {
		r.found.add(DamagedFile, "after %d kills: %s", r.report.Kills, problem)
	}
	return nil
}

// settle waits until every group has got all that it is owed.
func (r *run) settle(ctx context.Context) error {
	var left map[string]int
	err := r.eventually(ctx, settlePatience, "the delivery of what is left", func() (bool, error) {
		topics, err := r.topics(ctx)
		left = make(map[string]int)
		for topic, byGroup := range topics {
			for name, g := range byGroup {
				if n := g.Waiting + g.InHand + g.Delayed; n > 0 && name != auditor {
					left[topic+" to "+name] = n
				}
			}
		}
		return len(left) == 0, err
	})
	if err != nil && len(left) > 0 && r.failure() == nil && ctx.Err() == nil {
		for what, n := range left {
			r.found.add(StillOwed, "%d events of %s", n, what)
		}
		return nil
	}
	return err
}

// judge looks at everything that is there, over the socket and in the file.
func (r *run) judge(ctx context.Context) error {
	for _, topic := range []string{plainTopic, keyedTopic} {
		if err := r.audit(ctx, topic); err != nil {
			return err
		}
	}
	dead, err := r.deadLetters(ctx)
	if err != nil {
		return err
	}
	r.events.final(dead)
	stored, err := r.stored(ctx)
	if err != nil {
		return err
	}
	r.keys.final(stored)
	r.closeClients()
	if err := r.Bolt.Stop(); err != nil {
		return err
	}
	if err := r.check(ctx); err != nil {
		return err
	}

	r.report.Writes, r.report.Refused, r.report.Keys = r.keys.writes, r.keys.refused, len(r.keys.keys)+len(r.keys.counters)
	for _, n := range r.events.acceptedOf {
		r.report.Accepted += n
	}
	r.report.Duplicates, r.report.Deliveries = r.events.duplicates, r.events.deliveries
	for _, ids := range dead {
		r.report.Dead += len(ids)
	}
	r.report.Unanswered = int(r.unanswered.Load())
	r.report.Broken, r.report.Examples = r.found.counts, r.found.examples
	return nil
}

// audit reads a whole topic, as the group that has been owed all of it.
func (r *run) audit(ctx context.Context, topic string) error {
	spec := &groupSpec{name: auditor, topic: topic}
	c, err := wire.Dial(r.socket, (&consumer{run: r, spec: spec}).component())
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	topics, err := r.topics(ctx)
	if err != nil {
		return err
	}
	waiting := topics[topic][auditor].Waiting
	stream, err := c.Pull(ctx, topic)
	if err != nil {
		return err
	}
	for range waiting {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("reading topic %s, which holds %d events: %w", topic, waiting, err)
		}
		r.events.audit(topic, string(m.GetData()), m.GetMetadata()["sequence"])
		if err := stream.Send(&proto.PullMessagesRequest{AckMessageId: m.GetId()}); err != nil {
			return err
		}
	}
	return nil
}

// deadLetters lists the event ids of the dead letters of each group.
func (r *run) deadLetters(ctx context.Context) (map[string]map[string]bool, error) {
	letters, err := r.Bolt.DeadLetters(ctx, "--all")
	if err != nil {
		return nil, err
	}
	dead := make(map[string]map[string]bool)
	for _, letter := range letters {
		if dead[letter.Group] == nil {
			dead[letter.Group] = make(map[string]bool)
		}
		dead[letter.Group][letter.Event.ID] = true
	}
	return dead, nil
}

// stored is what the store holds for every key that was ever tried; counters are judged here.
func (r *run) stored(ctx context.Context) (map[string][]byte, error) {
	c, err := r.client("store")
	if err != nil {
		return nil, err
	}
	for key := range r.keys.counters {
		got, err := c.State.Get(ctx, &proto.GetRequest{Key: key})
		if err != nil {
			return nil, err
		}
		value, _ := strconv.Atoi(string(got.GetData()))
		r.keys.counted(key, value, r.keys.highest(key))
	}
	var items []*proto.GetRequest
	for key := range r.keys.keys {
		items = append(items, &proto.GetRequest{Key: key})
	}
	const atOnce = 500
	stored := make(map[string][]byte, len(items))
	for some := range slices.Chunk(items, atOnce) {
		answer, err := c.State.BulkGet(ctx, &proto.BulkGetRequest{Items: some})
		if err != nil {
			return nil, err
		}
		for _, item := range answer.GetItems() {
			if item.GetError() != "" {
				return nil, fmt.Errorf("reading %s: %s", item.GetKey(), item.GetError())
			}
			stored[item.GetKey()] = absentIfEmpty(item.GetData())
		}
	}
	return stored, nil
}
