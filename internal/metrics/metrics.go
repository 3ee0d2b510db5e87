// Package metrics holds the instruments that are written to while the process works: counters and histograms of calls,
// commits and deliveries. What is counted from what is stored, when a scrape asks, is internal/admin's.
//
// An instrument is looked up once, when a component is initialized or a file opened. Writing to it takes no lock and no
// allocation.
package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// Prefix begins the name of every metric of ours.
const Prefix = "dapr_bolt_"

var (
	// durations are upper bounds in seconds: from what memory takes to where somebody gives up.
	durations = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	// waits are upper bounds in seconds for what apps make events wait.
	waits = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 60, 300, 1800, 3600}
	// sizes are upper bounds in bytes.
	sizes = []float64{64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}
)

// Operation is what a call to a state store does.
type Operation string

// The operations, as the label says them.
const (
	Get        Operation = "get"
	Set        Operation = "set"
	Delete     Operation = "delete"
	BulkGet    Operation = "bulk_get"
	BulkSet    Operation = "bulk_set"
	BulkDelete Operation = "bulk_delete"
	Transact   Operation = "transact"
	Query      Operation = "query"
)

// Operations lists them all.
var Operations = []Operation{Get, Set, Delete, BulkGet, BulkSet, BulkDelete, Transact, Query}

// Outcome is what became of a call.
type Outcome int

// The outcomes.
const (
	// OK: it took effect, or was answered.
	OK Outcome = iota
	// Conflict: an ETag was not the key's.
	Conflict
	// Invalid: something in it is not allowed.
	Invalid
	// NoRoom: a limit, a full topic, or a full disk.
	NoRoom
	// Canceled: the caller has left, or its time has ended.
	Canceled
	// Failed: anything else.
	Failed
	outcomes
)

// String returns the outcome as the label says it.
func (o Outcome) String() string {
	return [outcomes]string{"ok", "conflict", "invalid", "no_room", "canceled", "failed"}[o]
}

// Metrics are the instruments of a process.
type Metrics struct {
	// Totals are the events of all brokers.
	Totals     pubsub.Totals
	gets, sets atomic.Uint64
	// commits of all databases, and what they took together in nanoseconds.
	commits, commitNanos atomic.Uint64

	stateCalls, publishCalls                       *prometheus.CounterVec
	stateTime, stateBytes, publishTime, eventBytes *prometheus.HistogramVec
	commitTime, commitBytes, deliveryWait, ackTime *prometheus.HistogramVec
}

// New returns instruments that stand at zero.
func New() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: Prefix + name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: Prefix + name, Help: help, Buckets: buckets}, labels)
	}
	return &Metrics{
		stateCalls:   counter("state_calls_total", "Calls to state stores.", "database", "bucket", "operation", "outcome"),
		stateTime:    histogram("state_call_duration_seconds", "Time from when a state call has arrived to its answer.", durations, "database", "bucket", "operation"),
		stateBytes:   histogram("state_value_size_bytes", "Size of the values that were read (get) and written (set), in whatever call.", sizes, "database", "bucket", "operation"),
		publishCalls: counter("publish_calls_total", "Publish calls, each of one event or, in bulk, of many.", "database", "bucket", "outcome"),
		publishTime:  histogram("publish_call_duration_seconds", "Time from when a publish call has arrived to its answer.", durations, "database", "bucket"),
		eventBytes:   histogram("published_event_size_bytes", "Size of the data of events that came to be published.", sizes, "database", "bucket"),
		commitTime:   histogram("database_commit_duration_seconds", "Time that a commit takes, its sync included.", durations, "database"),
		commitBytes:  histogram("database_commit_size_bytes", "Size of a commit in the log.", sizes, "database"),
		deliveryWait: histogram("delivery_wait_seconds", "Time from when an event was published, or was due, to its first delivery to the group.", waits, "database", "bucket", "group"),
		ackTime:      histogram("delivery_handling_seconds", "Time from a delivery to its acknowledgement.", waits, "database", "bucket", "group"),
	}
}

// Collectors returns all instruments, to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.stateCalls, m.stateTime, m.stateBytes, m.publishCalls, m.publishTime, m.eventBytes,
		m.commitTime, m.commitBytes, m.deliveryWait, m.ackTime,
	}
}

// Rates are what was counted since the process started, to draw rates of. Gets and Sets count keys' calls that succeeded,
// one each.
type Rates struct {
	Gets, Sets, Published, Delivered, Acknowledged, Failed uint64
	// Commits of all databases, and what they took together.
	Commits    uint64
	CommitTime time.Duration
}

// Rates returns what stands now.
func (m *Metrics) Rates() Rates {
	return Rates{
		Gets: m.gets.Load(), Sets: m.sets.Load(),
		Published: m.Totals.Published.Load(), Delivered: m.Totals.Delivered.Load(),
		Acknowledged: m.Totals.Acknowledged.Load(), Failed: m.Totals.Failed.Load(),
		Commits: m.commits.Load(), CommitTime: time.Duration(m.commitNanos.Load()),
	}
}

// State are the instruments of one bucket of state.
type State struct {
	metrics          *Metrics
	calls            map[Operation]*calls
	getSize, setSize prometheus.Observer
}

type calls struct {
	outcomes [outcomes]prometheus.Counter
	time     prometheus.Observer
}

// State returns the instruments of a bucket of state.
func (m *Metrics) State(database, bucket string) *State {
	s := &State{
		metrics: m,
		calls:   make(map[Operation]*calls, len(Operations)),
		getSize: m.stateBytes.WithLabelValues(database, bucket, string(Get)),
		setSize: m.stateBytes.WithLabelValues(database, bucket, string(Set)),
	}
	for _, op := range Operations {
		c := &calls{time: m.stateTime.WithLabelValues(database, bucket, string(op))}
		for o := range outcomes {
			c.outcomes[o] = m.stateCalls.WithLabelValues(database, bucket, string(op), o.String())
		}
		s.calls[op] = c
	}
	return s
}

// Called counts a call. An operation that is none of Operations is not counted.
func (s *State) Called(op Operation, outcome Outcome, took time.Duration) {
	c := s.calls[op]
	if c == nil {
		return
	}
	c.outcomes[outcome].Inc()
	c.time.Observe(took.Seconds())
	switch {
	case outcome != OK:
	case op == Get || op == BulkGet:
		s.metrics.gets.Add(1)
	case op == Set || op == BulkSet || op == Transact:
		s.metrics.sets.Add(1)
	}
}

// Read takes the size of a value that was read, in bytes.
func (s *State) Read(size int) { s.getSize.Observe(float64(size)) }

// Written takes the size of a value that was to be written, in bytes.
func (s *State) Written(size int) { s.setSize.Observe(float64(size)) }

// Publisher are the instruments of those who publish to one pub/sub bucket.
type Publisher struct {
	calls
	size prometheus.Observer
}

// Publisher returns the instruments of a pub/sub bucket's publishers.
func (m *Metrics) Publisher(database, bucket string) *Publisher {
	p := &Publisher{size: m.eventBytes.WithLabelValues(database, bucket)}
	p.time = m.publishTime.WithLabelValues(database, bucket)
	for o := range outcomes {
		p.outcomes[o] = m.publishCalls.WithLabelValues(database, bucket, o.String())
	}
	return p
}

// Called counts a call.
func (p *Publisher) Called(outcome Outcome, took time.Duration) {
	p.outcomes[outcome].Inc()
	p.time.Observe(took.Seconds())
}

// Event takes the size of an event's data, in bytes.
func (p *Publisher) Event(size int) { p.size.Observe(float64(size)) }

// Timings returns where the times of a bucket's groups go.
func (m *Metrics) Timings(database, bucket string) func(group string) pubsub.Timings {
	return func(group string) pubsub.Timings {
		return pubsub.Timings{
			Wait:     m.deliveryWait.WithLabelValues(database, bucket, group),
			Handling: m.ackTime.WithLabelValues(database, bucket, group),
		}
	}
}

// Commits returns what takes the time and the size, in bytes, of a database's commits.
func (m *Metrics) Commits(database string) func(took time.Duration, size int) {
	seconds, bytes := m.commitTime.WithLabelValues(database), m.commitBytes.WithLabelValues(database)
	return func(took time.Duration, size int) {
		m.commits.Add(1)
		m.commitNanos.Add(uint64(took))
		seconds.Observe(took.Seconds())
		bytes.Observe(float64(size))
	}
}

// Limit says how much of a flag's limit is used.
type Limit struct {
	// Flag is the flag's name without its dashes.
	Flag      string
	Used, Max float64
}
