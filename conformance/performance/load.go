package performance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/procfs"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// What clients do. All of them choose among the same keys at random, and every event has an id of its own.
const (
	workSet = "set"
	// workSetLong is the same for several checkpoints: a page that is set again and again is written once for each of them.
	workSetLong = "set, through checkpoints"
	workGet     = "get"
	workPing    = "Ping"
	workPublish = "publish"
	// workDeliver counts events from the first publish until the last one was handled, by one subscriber with its component's
	// default concurrency; all must be acknowledged then, where the broker can be asked.
	workDeliver = "publish, deliver, ack"
	// workTwoSyncs is what bbolt does for a small set among 10,000: five pages, a sync, the page that makes them count, and
	// another sync.
	workTwoSyncs = "the writes and both syncs of a commit"
)

// size is that of a value or an event, in bytes.
const size = 1 << 10

var value = bytes.Repeat([]byte("a"), size)

func keyName(n int) string { return fmt.Sprintf("bench-key-%08d", n) }

// call is one of a client, which is told its number and how many calls all clients made before.
type call func(ctx context.Context, client, n int) error

// outcome is what a number of clients got done.
type outcome struct {
	began     time.Time
	elapsed   time.Duration
	done      int
	latencies []time.Duration
	errors    int
	first     error
}

// loop lets clients call again and again, each in its own goroutine, until there were so many calls, or, if that is zero, for
// a time.
func loop(ctx context.Context, clients, calls int, long time.Duration, do call) outcome {
	total := outcome{began: time.Now()}
	var made atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			var own outcome
			for ctx.Err() == nil {
				n := int(made.Add(1)) - 1
				if calls > 0 && n >= calls || calls == 0 && time.Since(total.began) >= long {
					break
				}
				before := time.Now()
				if err := do(ctx, client, n); err != nil {
					own.fail(err)
					continue
				}
				own.done++
				own.latencies = append(own.latencies, time.Since(before))
			}
			mu.Lock()
			defer mu.Unlock()
			total.done += own.done
			total.errors += own.errors
			total.latencies = append(total.latencies, own.latencies...)
			if total.first == nil {
				total.first = own.first
			}
		})
	}
	group.Wait()
	total.elapsed = time.Since(total.began)
	return total
}

func (o *outcome) fail(err error) {
	o.errors++
	if o.first == nil {
		o.first = err
	}
}

func (o *outcome) sample(cell Cell, round int) Sample {
	slices.Sort(o.latencies)
	quantile := func(q float64) time.Duration {
		if len(o.latencies) == 0 {
			return 0
		}
		return o.latencies[min(int(q*float64(len(o.latencies))), len(o.latencies)-1)]
	}
	s := Sample{Cell: cell, Round: round, Done: o.done, Errors: o.errors, P50: quantile(0.50), P99: quantile(0.99), P999: quantile(0.999)}
	if o.elapsed > 0 {
		s.PerSecond = float64(o.done) / o.elapsed.Seconds()
	}
	if o.first != nil {
		s.Error = o.first.Error()
	}
	return s
}

// can reports whether the peer can do a work.
func (p *peer) can(work string) bool {
	switch work {
	case workSet, workClusterSet, workSidecarSet, workSidecars:
		return p.set != nil
	case workSetLong:
		return p.set != nil && p.process != nil
	case workGet:
		return p.get != nil
	case workPing:
		return p.ping != nil
	case workTwoSyncs:
		return p.twoSyncs != nil
	case workPublish, workClusterPublish, workSidecarPublish:
		return p.publish != nil
	default:
		return p.subscribe != nil
	}
}

// work returns the call for loop, and, unless it is nil, what ends it, which is told how many calls succeeded and says when
// their work was done.
func (p *peer) work(ctx context.Context, work string, keys, clients int) (do call, finish func(done int) (time.Time, error), err error) {
	random := make([]*rand.Rand, clients)
	for i := range random {
		random[i] = rand.New(rand.NewPCG(uint64(i), rand.Uint64()))
	}
	switch work {
	case workGet:
		return func(ctx context.Context, client, _ int) error {
			key := keyName(random[client].IntN(keys))
			got, err := p.get(ctx, key)
			if err == nil && len(got) != size {
				return fmt.Errorf("get of key %s: %d bytes, not the %d that were set", key, len(got), size)
			}
			return err
		}, nil, nil
	case workPing:
		return func(context.Context, int, int) error { return p.ping() }, nil, nil
	case workTwoSyncs:
		return func(_ context.Context, _, n int) error { return p.twoSyncs(n) }, nil, nil
	case workPublish, workDeliver, workClusterPublish, workSidecarPublish:
		return p.events(ctx, work == workDeliver)
	default:
		return func(ctx context.Context, client, _ int) error {
			return p.set(ctx, keyName(random[client].IntN(keys)), value)
		}, nil, nil
	}
}

// arrival is how long events may take to arrive once all are published.
const arrival = 5 * time.Minute

var (
	topicNumber atomic.Int64
	eventNumber atomic.Int64 // keeps the ids of this process apart: some peers look for duplicates in more than one topic
)

// events publishes to a topic of its own. With a subscriber, the work is done when that
// has had every event; then the broker must know.
func (p *peer) events(ctx context.Context, subscribed bool) (do call, finish func(done int) (time.Time, error), err error) {
	topic := fmt.Sprintf("bench.topic-%d", topicNumber.Add(1))
	do = func(ctx context.Context, _, _ int) error { return p.publish(ctx, topic, newEvent(eventNumber.Add(1))) }
	if !subscribed {
		// The first event of a topic may have to make it.
		return do, nil, do(ctx, 0, 0)
	}
	ctx, unsubscribe := context.WithCancel(ctx)
	var arrived sync.Map // some peers deliver an event twice
	var unique atomic.Int64
	if err := p.subscribe(ctx, topic, func(data []byte) {
		if _, before := arrived.LoadOrStore(eventID(data), true); !before {
			unique.Add(1)
		}
	}); err != nil {
		unsubscribe()
		return nil, nil, fmt.Errorf("subscribe: %w", err)
	}
	return do, func(done int) (time.Time, error) {
		defer unsubscribe()
		err := eventually(ctx, func() error {
			if n := unique.Load(); n < int64(done) {
				return fmt.Errorf("%d of %d events came", n, done)
			}
			return nil
		})
		last := time.Now()
		if err == nil && p.settled != nil {
			err = eventually(ctx, func() error { return p.settled(ctx, topic) })
		}
		return last, err
	}, nil
}

// eventually asks check until it has no error.
func eventually(ctx context.Context, check func() error) error {
	for end := time.Now().Add(arrival); ; {
		err := check()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

const (
	eventPrefix = `{"specversion":"1.0","source":"b","type":"t","id":"`
	idDigits    = 12
)

// newEvent makes a CloudEvent.
func newEvent(id int64) []byte {
	event := fmt.Appendf(make([]byte, 0, size), "%s%0*d\",\"data\":\"", eventPrefix, idDigits, id)
	return append(append(event, value[:size-len(event)-2]...), `"}`...)
}

// eventID returns the id of an event, also of one in another order of fields.
func eventID(data []byte) string {
	const field = `"id":"`
	if at := bytes.Index(data, []byte(field)) + len(field); at >= len(field) && at+idDigits <= len(data) {
		return string(data[at : at+idDigits])
	}
	return ""
}

// usage is what a process has taken since it started.
type usage struct {
	cpu     time.Duration
	written int64
}

// usageOf asks the system; an error means that it is not known.
func usageOf(process *harness.Process) (u usage, err error) {
	if process == nil {
		return u, os.ErrNotExist
	}
	p, err := procfs.NewProc(process.PID())
	if err != nil {
		return u, err
	}
	stat, statErr := p.Stat()
	io, ioErr := p.IO()
	u.cpu = time.Duration(stat.CPUTime() * float64(time.Second))
	u.written = int64(io.WriteBytes)
	return u, errors.Join(statErr, ioErr)
}
