package performance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	contribpubsub "github.com/dapr/components-contrib/pubsub"
	"github.com/dapr/components-contrib/state"
	pubsubadapter "github.com/dapr/dapr/pkg/components/pubsub"
	stateadapter "github.com/dapr/dapr/pkg/components/state"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/statestore"
)

// Growth is how dapr-bolt does at one Stage.
type Growth struct {
	Stage Stage `json:"stage"`
	// FileBytes is the length of the file that holds both, KeyBytes and EventBytes what one of them takes on disk, on
	// average, since the stage before. They are zero where there are none.
	FileBytes  int64   `json:"fileBytes"`
	KeyBytes   float64 `json:"keyBytes"`
	EventBytes float64 `json:"eventBytes"`
	// OpenWarm and OpenCold are from the start of the process until both components are initialised: after the file was
	// filled in, and, once everything was measured, after the kernel was asked to forget it. OpenCold is zero where that
	// cannot be asked.
	OpenWarm time.Duration `json:"openWarm"`
	OpenCold time.Duration `json:"openCold"`
	// Resident is the process's memory after it was opened, without the mapped file; ResidentAfter after the measurements.
	Resident      int64 `json:"resident"`
	ResidentAfter int64 `json:"residentAfter"`
	// Sets, SetsWithEvents and Publishes are at the promises' clients and size. Sets were measured when the stage's keys
	// were in, but of events only those of the stage before; KeyFileBytes is how long the file was then.
	Sets           Grown `json:"sets"`
	KeyFileBytes   int64 `json:"keyFileBytes"`
	SetsWithEvents Grown `json:"setsWithEvents"`
	Publishes      Grown `json:"publishes"`
	// BareSets are those of a bare server with nothing but a bbolt file of the same keys; see ServeBare.
	BareSets Grown `json:"bareSets"`
}

// Grown is how one kind of work goes with a file that was filled in, and, measured in turn with it, with one that was
// empty to begin with: calls per second, medians of the rounds. Ratio is the median of the rounds' ratios.
type Grown struct {
	PerSecond float64 `json:"perSecond"`
	Empty     float64 `json:"empty"`
	Ratio     float64 `json:"ratio"`
}

const (
	workGrowthSet           = "set of random keys, before the events"
	workGrowthSetWithEvents = "set of random keys"
	workGrowthPublish       = "publish to a topic with events waiting"
	besideEmpty             = ", beside it an empty file"

	fillBatch    = 1_000 // keys or events at a time
	growthTopic  = "bench.waiting"
	growthWindow = 24 * time.Hour // so that no id is forgotten meanwhile
)

// growth fills one file further and further and measures at each stage.
func (b *Bench) growth(ctx context.Context) error {
	return b.inWorld(func(w *world) error {
		data, err := w.folder("data")
		if err != nil {
			return err
		}
		// Keys are drawn from as many at every stage, so that only the file differs.
		keys := b.mostKeys()
		var filled Stage
		for _, stage := range b.opts.Stages {
			g := Growth{Stage: stage}
			// Sets are measured before the events come as well: with both, the largest file is larger than many machines'
			// memory, and then it is the disk that is measured.
			for _, step := range []struct {
				to      Stage
				measure func(context.Context, *world, string, int, *Growth) error
			}{
				{Stage{stage.Keys, filled.Events}, b.measureKeys},
				{stage, b.measureAll},
			} {
				if err := b.fillStage(ctx, data, filled, step.to, &g); err != nil {
					return fmt.Errorf("fill in %d keys and %d events: %w", step.to.Keys, step.to.Events, err)
				}
				filled = step.to
				if err := step.measure(ctx, w, data, keys, &g); err != nil {
					return fmt.Errorf("at %d keys and %d events: %w", filled.Keys, filled.Events, err)
				}
			}
			b.results.Growth = append(b.results.Growth, g)
			b.progress(fmt.Sprintf("growth: %d keys, %d events: %.2f x the sets of an empty file (%.2f with events), %.2f x its publishes, open in %s (cold %s), %d MiB resident, file of %d MiB",
				stage.Keys, stage.Events, g.Sets.Ratio, g.SetsWithEvents.Ratio, g.Publishes.Ratio, short(g.OpenWarm), short(g.OpenCold), g.Resident>>20, g.FileBytes>>20))
			if stage.Keys == 0 && stage.Events == 0 {
				// What was measured is not part of the next stage.
				if err := os.RemoveAll(data); err != nil {
					return err
				}
				if err := os.MkdirAll(data, 0o700); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *Bench) mostKeys() int { return max(b.opts.Stages[len(b.opts.Stages)-1].Keys, 1) }

// fillStage writes what is missing between two stages, past the socket: it is the same file.
func (b *Bench) fillStage(ctx context.Context, data string, from, to Stage, g *Growth) (err error) {
	file := filepath.Join(data, databases.DefaultDatabase+".db")
	manager, err := databases.Open(ctx, databases.Options{Dir: data, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, manager.Close(ctx))
		if err == nil {
			g.FileBytes, err = fileSize(file)
		}
	}()
	before, err := fileSize(file)
	if err != nil {
		return err
	}
	if n := to.Keys - from.Keys; n > 0 {
		store, err := manager.StateStore(ctx, databases.DefaultDatabase, databases.DefaultStateBucket)
		if err != nil {
			return err
		}
		if err := b.fillKeys(ctx, store, from.Keys, to.Keys); err != nil {
			return err
		}
		after, err := fileSize(file)
		if err != nil {
			return err
		}
		g.KeyBytes, before = float64(after-before)/float64(n), after
	}
	if n := to.Events - from.Events; n > 0 {
		broker, err := manager.Broker(ctx, databases.DefaultDatabase, databases.DefaultPubSubBucket)
		if err != nil {
			return err
		}
		if err := b.fillTopic(ctx, broker, n); err != nil {
			return err
		}
		after, err := fileSize(file)
		if err != nil {
			return err
		}
		g.EventBytes = float64(after-before) / float64(n)
	}
	return nil
}

// fillKeys sets keys in their own order, which is the quickest.
func (b *Bench) fillKeys(ctx context.Context, store *statestore.Store, from, to int) error {
	c := newStateClient(nil, to, headlineSize)
	return b.inBatches("keys are in", from, to, func(from, to int) error {
		writes := make([]statestore.Write, 0, fillBatch)
		for i := from; i < to; i++ {
			writes = append(writes, statestore.Write{Op: statestore.OpSet, Key: keyName(i), Value: c.value})
		}
		return store.Apply(ctx, statestore.Transaction{Writes: writes})
	})
}

// inBatches calls put for fillBatch numbers at a time, and tells now and then how many of them are done.
func (b *Bench) inBatches(what string, from, to int, put func(from, to int) error) error {
	report := time.Now()
	for n := from; n < to; n += fillBatch {
		if err := put(n, min(n+fillBatch, to)); err != nil {
			return err
		}
		if time.Since(report) > 10*time.Second {
			report = time.Now()
			b.progress(fmt.Sprintf("growth: %d of %d %s", n-from, to-from, what))
		}
	}
	return nil
}

// fillTopic leaves events waiting for a group that is away, with their ids in the window.
func (b *Bench) fillTopic(ctx context.Context, broker *pubsub.Broker, n int) error {
	subscription, err := broker.Subscribe(ctx, pubsub.SubscribeOptions{Group: consumerGroup, Topic: growthTopic, MaxAckPending: 1})
	if err != nil {
		return err
	}
	subscription.Close()
	events := newEvents(headlineSize, n)
	opts := pubsub.PublishOptions{DedupWindow: growthWindow}
	return b.inBatches("events are in", 0, n, func(from, to int) error {
		messages := make([]pubsub.Message, 0, fillBatch)
		for range to - from {
			data, _, _ := events.make()
			messages = append(messages, pubsub.Message{Data: data})
		}
		for _, err := range broker.Publish(ctx, growthTopic, messages, opts) {
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// measureKeys measures sets where the stage's keys are in, but not its events.
func (b *Bench) measureKeys(ctx context.Context, w *world, data string, keys int, g *Growth) error {
	g.KeyFileBytes = g.FileBytes
	p, err := w.startGrown(ctx, b.bolt, data)
	if err != nil {
		return err
	}
	empty, err := b.startEmpty(ctx)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	g.Sets = b.grow(ctx, g, workGrowthSet, randomSets(p.state, keys), randomSets(empty.state, keys))
	return errors.Join(p.Close(), empty.Close(), ctx.Err())
}

// measureAll measures where the stage's keys and events are in.
func (b *Bench) measureAll(ctx context.Context, w *world, data string, keys int, g *Growth) error {
	p, err := w.startGrown(ctx, b.bolt, data)
	if err != nil {
		return err
	}
	g.OpenWarm = p.opened
	if g.Resident, err = anonymousMemory(p.bolt.PID()); err != nil {
		return errors.Join(err, p.Close())
	}
	empty, err := b.startEmpty(ctx)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	g.SetsWithEvents = b.grow(ctx, g, workGrowthSetWithEvents, randomSets(p.state, keys), randomSets(empty.state, keys))
	g.Publishes = b.grow(ctx, g, workGrowthPublish, publishes(p.pubsub), publishes(empty.pubsub))
	g.ResidentAfter, err = anonymousMemory(p.bolt.PID())
	if err := errors.Join(err, p.Close(), empty.Close(), ctx.Err()); err != nil {
		return err
	}

	switch err := forgetFile(filepath.Join(data, databases.DefaultDatabase+".db")); {
	case errors.Is(err, errors.ErrUnsupported):
		return nil
	case err != nil:
		return err
	}
	cold, err := w.startGrown(ctx, b.bolt, data)
	if err != nil {
		return err
	}
	g.OpenCold = cold.opened
	return cold.Close()
}

func randomSets(store state.Store, keys int) operation {
	return newStateClient(component{store}, keys, headlineSize).work(workSet, headlineClients)
}

func publishes(broker contribpubsub.PubSub) operation {
	events := newEvents(headlineSize, mostEvents)
	return func(ctx context.Context, _, _ int) error {
		event, _, ok := events.make()
		if !ok {
			return errNoMoreEvents
		}
		return broker.Publish(ctx, &contribpubsub.PublishRequest{Topic: growthTopic, Data: event})
	}
}

// grow measures one kind of work with a filled file and with an empty one, in turn.
func (b *Bench) grow(ctx context.Context, g *Growth, work string, filled, empty operation) Grown {
	stage := fmt.Sprintf("%d keys, %d events", g.Stage.Keys, g.Stage.Events)
	cell := Cell{Section: SectionGrowth, Work: work, Peer: stage, Clients: headlineClients, Size: headlineSize}
	beside := cell
	beside.Peer += besideEmpty
	for round := range b.opts.Rounds {
		b.measure(ctx, cell, round, filled)
		b.measure(ctx, beside, round, empty)
	}
	with, _ := b.results.Median(cell)
	without, _ := b.results.Median(beside)
	grown := Grown{PerSecond: with.PerSecond, Empty: without.PerSecond}
	if ratios := b.results.ratios(cell, beside); len(ratios) > 0 {
		grown.Ratio = median(ratios)
	}
	return grown
}

// grown is a process on a file that was filled in.
type grown struct {
	bolt   *harness.Bolt
	state  state.Store
	pubsub contribpubsub.PubSub
	opened time.Duration
	world  *world // that is its own; nil: none
}

func (w *world) startGrown(ctx context.Context, path, data string) (*grown, error) {
	begin := time.Now()
	bolt, err := w.StartBolt(ctx, harness.BoltOptions{Path: path, DataDir: data})
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(bolt.SocketDir, "bolt.sock")
	g := &grown{
		bolt:   bolt,
		state:  stateadapter.NewGRPCStateStore(silent("growth"), socket),
		pubsub: pubsubadapter.NewGRPCPubSub(silent("growth"), socket),
	}
	sm, pm := state.Metadata{}, contribpubsub.Metadata{}
	sm.Name, pm.Name = "state", "pubsub"
	sm.Properties = map[string]string{}
	pm.Properties = map[string]string{"consumerID": consumerGroup, "dedupWindow": growthWindow.String()}
	if err := errors.Join(g.state.Init(ctx, sm), g.pubsub.Init(ctx, pm)); err != nil {
		return nil, err
	}
	g.opened = time.Since(begin)
	return g, nil
}

// startEmpty runs a process on an empty file, in a world of its own that Close ends.
func (b *Bench) startEmpty(ctx context.Context) (*grown, error) {
	w, err := b.newWorld()
	if err != nil {
		return nil, err
	}
	data, err := w.folder("data")
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	g, err := w.startGrown(ctx, b.bolt, data)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	g.world = w
	return g, nil
}

func (g *grown) Close() error {
	err := errors.Join(g.state.Close(), g.pubsub.Close(), g.bolt.Stop())
	if g.world != nil {
		err = errors.Join(err, g.world.Close())
	}
	return err
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func forgetFile(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return forget(file)
}

// anonymousMemory is what a process keeps in memory beside files, in bytes; 0 where that cannot be read.
func anonymousMemory(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			var kib int64
			if _, err := fmt.Sscanf(strings.TrimSpace(value), "%d kB", &kib); err != nil {
				return 0, fmt.Errorf("memory of process %d: %w", pid, err)
			}
			return kib << 10, nil
		}
	}
	return 0, nil
}
