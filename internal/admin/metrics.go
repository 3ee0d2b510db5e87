package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

var (
	databaseLabels = []string{"database"}
	topicLabels    = []string{"database", "bucket", "topic"}
	groupLabels    = []string{"database", "bucket", "topic", "group"}

	ready         = describe("ready", "Whether /readyz says that the process serves: 1 or 0.", nil)
	limitUsed     = describe("limit_used", "What is used of a limit that a flag sets; for max-topics and max-groups, by the fullest bucket or topic.", []string{"flag"})
	limitMax      = describe("limit", "The limit that a flag sets.", []string{"flag"})
	diskAvailable = describe("data_dir_available_bytes", "Bytes that can be written to the file system of the data directory.", nil)
	diskSize      = describe("data_dir_size_bytes", "Size of the file system of the data directory.", nil)

	etcdUp     = describe("etcd_server_up", "Whether the server of etcd answers: 1 or 0.", []string{"server"})
	etcdAlarms = describe("etcd_server_alarms", "Alarms that the server of etcd knows of: of no space, or of damaged data.", []string{"server"})
	etcdSize   = describe("etcd_server_size_bytes", "Size of the server's database, for which etcd has a quota.", []string{"server"})
	etcdInUse  = describe("etcd_server_used_bytes", "What of the server's database is data; the rest is free for more, and goes with a defragmentation.", []string{"server"})

	streamLeader = describe("nats_stream_has_leader", "Whether the stream of the bucket has a leader, which takes most of its servers: 1 or 0.", []string{"database", "bucket"})
	natsUp       = describe("nats_server_up", "Whether a server that has the stream of the bucket is there, as its leader says: 1 or 0.", []string{"database", "bucket", "server"})

	groupDeadLettered = describe("group_dead_lettered_total", "Events that became dead letters of the group, by reason.", append(slices.Clone(groupLabels), "reason"))

	databaseMetrics = []metric[*databases.Database]{
		{describe("database_size_bytes", "Length of the database file.", databaseLabels), gauge, func(f *databases.Database) float64 { return float64(f.Size) }},
		{describe("database_commits_total", "Commits, each of which is one sync of the log.", databaseLabels), counter, func(f *databases.Database) float64 { return float64(f.Stats.Commits) }},
		{describe("database_writes_total", "Writes that were in those commits.", databaseLabels), counter, func(f *databases.Database) float64 { return float64(f.Stats.Writes) }},
		{describe("database_log_bytes_total", "Bytes written to the log.", databaseLabels), counter, func(f *databases.Database) float64 { return float64(f.Stats.LogBytes) }},
		{describe("database_log_sync_seconds_total", "Time that syncs of the log have taken.", databaseLabels), counter, func(f *databases.Database) float64 { return f.Stats.SyncTime.Seconds() }},
		{describe("database_checkpoints_total", "Checkpoints of the database file.", databaseLabels), counter, func(f *databases.Database) float64 { return float64(f.Stats.Checkpoints) }},
		{describe("database_checkpoint_seconds_total", "Time that checkpoints have taken, in the background.", databaseLabels), counter, func(f *databases.Database) float64 { return f.Stats.CheckpointTime.Seconds() }},
		{describe("database_recoveries_total", "Recoveries of the database file from its log.", databaseLabels), counter, func(f *databases.Database) float64 { return float64(f.Stats.Recoveries) }},
		{describe("database_recovery_seconds_total", "Time that recoveries have taken.", databaseLabels), counter, func(f *databases.Database) float64 { return f.Stats.RecoveryTime.Seconds() }},
	}

	topicMetrics = []metric[*pubsub.TopicStats]{
		{describe("topic_events", "Events that the topic keeps.", topicLabels), gauge, func(t *pubsub.TopicStats) float64 { return float64(t.Stored) }},
		{describe("topic_delayed_events", "Events that wait for their time to be delivered.", topicLabels), gauge, func(t *pubsub.TopicStats) float64 { return float64(t.Delayed) }},
		{describe("topic_bytes", "Bytes of the events that the topic keeps.", topicLabels), gauge, func(t *pubsub.TopicStats) float64 { return float64(t.Bytes) }},
		{describe("topic_oldest_event_timestamp_seconds", "When the oldest event that the topic keeps was published.", topicLabels), gauge, func(t *pubsub.TopicStats) float64 { return seconds(t.OldestTime) }},
		{describe("topic_last_sequence", "The sequence of the newest event that the topic has taken since it came up.", topicLabels), gauge, func(t *pubsub.TopicStats) float64 { return float64(t.LastSequence) }},
		{describe("topic_published_total", "Events that the topic has taken, duplicates left out.", topicLabels), counter, func(t *pubsub.TopicStats) float64 { return float64(t.Published) }},
		{describe("topic_duplicates_total", "Events that were published again and dropped.", topicLabels), counter, func(t *pubsub.TopicStats) float64 { return float64(t.Duplicates) }},
	}

	groupMetrics = []metric[*pubsub.GroupStats]{
		{describe("group_waiting_events", "Events that the group is owed and that are neither in flight nor retrying.", groupLabels), gauge, func(g *pubsub.GroupStats) float64 { return float64(g.Waiting) }},
		{describe("group_in_flight_events", "Events that an app instance has not acknowledged yet.", groupLabels), gauge, func(g *pubsub.GroupStats) float64 { return float64(g.InFlight) }},
		{describe("group_retrying_events", "Events that wait for their next delivery to the group.", groupLabels), gauge, func(g *pubsub.GroupStats) float64 { return float64(g.Retrying) }},
		{describe("group_dead_letters", "Dead letters of the group.", groupLabels), gauge, func(g *pubsub.GroupStats) float64 { return float64(g.Dead) }},
		{describe("group_oldest_event_timestamp_seconds", "When the oldest event that the group is owed was published.", groupLabels), gauge, func(g *pubsub.GroupStats) float64 { return seconds(g.OldestTime) }},
		{describe("group_streams", "App instances that consume now.", groupLabels), gauge, func(g *pubsub.GroupStats) float64 { return float64(g.Streams) }},
		{describe("group_delivered_total", "Deliveries of events to the group.", groupLabels), counter, func(g *pubsub.GroupStats) float64 { return float64(g.Delivered) }},
		{describe("group_redelivered_total", "Deliveries of events that were delivered to the group before.", groupLabels), counter, func(g *pubsub.GroupStats) float64 { return float64(g.Redelivered) }},
		{describe("group_acknowledged_total", "Deliveries that the group has acknowledged.", groupLabels), counter, func(g *pubsub.GroupStats) float64 { return float64(g.Acknowledged) }},
		{describe("group_failed_total", "Deliveries that failed, those not acknowledged within ackWait among them.", groupLabels), counter, func(g *pubsub.GroupStats) float64 { return float64(g.Failed) }},
		{describe("group_expired_total", "Events that were dropped because their time to live had ended.", groupLabels), counter, func(g *pubsub.GroupStats) float64 { return float64(g.Expired) }},
		{describe("group_redriven_total", "Dead letters that were sent back to the group.", groupLabels), counter, func(g *pubsub.GroupStats) float64 { return float64(g.Redriven) }},
	}
)

// A metric is one number of each T; a NaN is none.
type metric[T any] struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(of T) float64
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

func collect[T any](out chan<- prometheus.Metric, metrics []metric[T], of T, labels ...string) {
	for _, m := range metrics {
		if value := m.value(of); !math.IsNaN(value) {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
		}
	}
}

func collectGauge(out chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, gauge, value, labels...)
}

// described are the metrics that a scrape asks for.
var described []*prometheus.Desc

func describe(name, help string, labels []string) *prometheus.Desc {
	d := prometheus.NewDesc(metrics.Prefix+name, help, labels, nil)
	described = append(described, d)
	return d
}

// RegistryOptions for NewRegistry.
type RegistryOptions struct {
	// Databases is what is counted. Required.
	Databases *databases.Manager
	// Metrics are the instruments that the process writes to. Required.
	Metrics *metrics.Metrics
	// Health says how servers and files are, and what keeps the process from serving. Required.
	Health func(ctx context.Context) databases.Health
	// Limits returns what the component's clients use of its limits. Required.
	Limits func() []metrics.Limit
	// Version of this build.
	Version string
}

// NewRegistry returns the metrics of the process, of this build, and of every bucket of the data directory.
func NewRegistry(opts RegistryOptions) (*prometheus.Registry, error) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        metrics.Prefix + "build_info",
		Help:        "Always 1; the labels say which build runs.",
		ConstLabels: prometheus.Labels{"version": opts.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	registry := prometheus.NewRegistry()
	for _, c := range append(opts.Metrics.Collectors(),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
		&statsCollector{opts},
	) {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return registry, nil
}

// statsCollector counts when it is asked, so that counting costs nothing between scrapes.
type statsCollector struct{ opts RegistryOptions }

// Describe implements prometheus.Collector.
func (c *statsCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range described {
		out <- d
	}
}

// Collect implements prometheus.Collector. What cannot be counted fails alone.
func (c *statsCollector) Collect(out chan<- prometheus.Metric) {
	// What servers do not answer in time must not keep the rest from being shown.
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout*3/4)
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { collectHealth(out, c.opts.Health(ctx)) })
	defer asking.Wait()

	available, size, err := c.opts.Databases.Disk()
	switch {
	case err == nil:
		collectGauge(out, diskAvailable, float64(available))
		collectGauge(out, diskSize, float64(size))
	case !errors.Is(err, errors.ErrUnsupported):
		out <- prometheus.NewInvalidMetric(diskAvailable, err)
	}

	files, err := c.opts.Databases.Databases()
	if err != nil {
		out <- prometheus.NewInvalidMetric(databaseMetrics[0].desc, err)
	}
	for i := range files {
		collect(out, databaseMetrics, &files[i], files[i].Name)
	}
	names := c.opts.Databases.Names()
	fullestBucket, fullestTopic := 0, 0
	all, err := c.opts.Databases.Brokers(ctx)
	if err != nil && !errors.Is(err, databases.ErrTooMany) {
		out <- prometheus.NewInvalidMetric(topicMetrics[0].desc, err)
	}
	for _, b := range all {
		topics, err := b.Broker.Stats(ctx, "", "", 0)
		if err != nil {
			out <- prometheus.NewInvalidMetric(topicMetrics[0].desc, fmt.Errorf("database %s, bucket %s: %w", b.Database, b.Bucket, err))
			continue
		}
		fullestBucket = max(fullestBucket, len(topics))
		for i := range topics {
			fullestTopic = max(fullestTopic, len(topics[i].Groups))
			collectTopic(out, b, &topics[i])
		}
	}
	limits := append(c.opts.Limits(), c.opts.Databases.Limits()...)
	limits = append(limits, metrics.Limit{Flag: "max-topics", Used: float64(fullestBucket), Max: float64(names.MaxTopics)},
		metrics.Limit{Flag: "max-groups", Used: float64(fullestTopic), Max: float64(names.MaxGroups)})
	for _, l := range limits {
		collectGauge(out, limitUsed, l.Used, l.Flag)
		collectGauge(out, limitMax, l.Max, l.Flag)
	}
}

func collectHealth(out chan<- prometheus.Metric, h databases.Health) {
	collectGauge(out, ready, oneIf(h.Err == nil))
	for _, s := range h.Etcd {
		collectGauge(out, etcdUp, oneIf(s.Err == nil), s.Endpoint)
		if s.Err == nil {
			collectGauge(out, etcdAlarms, float64(len(s.Alarms)), s.Endpoint)
			collectGauge(out, etcdSize, float64(s.Size), s.Endpoint)
			collectGauge(out, etcdInUse, float64(s.InUse), s.Endpoint)
		}
	}
	for _, s := range h.Streams {
		collectGauge(out, streamLeader, oneIf(s.Err == nil), s.Database, s.Bucket)
		for name, up := range s.Servers {
			collectGauge(out, natsUp, oneIf(up), s.Database, s.Bucket, name)
		}
	}
}

func oneIf(holds bool) float64 {
	if holds {
		return 1
	}
	return 0
}

func collectTopic(out chan<- prometheus.Metric, b databases.OpenBroker, t *pubsub.TopicStats) {
	collect(out, topicMetrics, t, b.Database, b.Bucket, t.Topic)
	for i := range t.Groups {
		g := &t.Groups[i]
		collect(out, groupMetrics, g, b.Database, b.Bucket, t.Topic, g.Group)
		for _, reason := range pubsub.Reasons {
			out <- prometheus.MustNewConstMetric(groupDeadLettered, counter, float64(g.DeadLettered[reason]), b.Database, b.Bucket, t.Topic, g.Group, string(reason))
		}
	}
}

func seconds(t *time.Time) float64 {
	if t == nil {
		return math.NaN()
	}
	return float64(t.UnixMilli()) / 1000
}
