package performance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// Parts lists the parts of a run, in the order in which they run: calls of a component side by side, calls of sidecars with
// the component behind them, one large file, etcd and NATS.
func Parts() []string { return []string{"calls", "sidecars", "large", "cluster"} }

// Options say what to measure and for how long.
type Options struct {
	// Parts are those to run.
	Parts []string
	// Dir is where databases are kept meanwhile. It must be on the disk that is to be measured, not in memory. Default:
	// .cache/bench in the checkout.
	Dir string
	// Base is the binary of another build of dapr-bolt, to be measured as a peer. Default: none is.
	Base string
	// Rounds is how often everything is measured; medians count.
	Rounds int
	// Turn is how long one measurement takes, except that of a large file, and of what is written to the disk: see longTurn.
	Turn time.Duration
	// Calls, unless it is zero, ends a measurement after so many calls instead.
	Calls int
	// Keys and Events are what the large file holds.
	Keys, Events int
	// Progress is told what is being measured.
	Progress io.Writer
}

// longTurn is how long a measurement takes that is to go through checkpoints.
const longTurn = 20 * time.Second

// Cell names one thing that is measured: what clients do at the same time, each again as soon as its last call returned.
type Cell struct {
	Work    string `json:"work"`
	Clients int    `json:"clients"`
	Peer    string `json:"peer"`
}

func (c Cell) String() string { return fmt.Sprintf("%s, %d clients, %s", c.Work, c.Clients, c.Peer) }

// Sample is one measurement of a Cell.
type Sample struct {
	Cell  Cell `json:"cell"`
	Round int  `json:"round"`
	// Done counts the calls that succeeded, PerSecond how many of them in a second. P50, P99 and P999 are latencies of single calls.
	Done      int           `json:"done"`
	PerSecond float64       `json:"perSecond"`
	P50       time.Duration `json:"p50"`
	P99       time.Duration `json:"p99"`
	P999      time.Duration `json:"p999"`
	// CPU is the time of a processor that the peer's own process took for a call, and Written the bytes that it had written
	// to the disk for it. Both are zero where they are not known.
	CPU     time.Duration `json:"cpu,omitempty"`
	Written float64       `json:"written,omitempty"`
	// Growth is by how many bytes the file grew for each byte of the values that were set meanwhile.
	Growth float64 `json:"growth,omitempty"`
	// Errors counts the calls that failed; they are in no other number. Error is the first one's text.
	Errors int    `json:"errors,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Results are what a run measured.
type Results struct {
	Date    string `json:"date"`
	Machine string `json:"machine"`
	Rounds  int    `json:"rounds"`
	// Peers has the settings of who was measured, and Missing why others were not.
	Peers   map[string]string `json:"peers"`
	Missing map[string]string `json:"missing,omitempty"`
	Samples []Sample          `json:"samples"`
}

// bench is one run.
type bench struct {
	opts     Options
	checkout harness.Checkout
	bolt     string // the binary of this tree
	results  Results
	closers  []func() error // end what the running part has started, in reverse order
}

// clientGCPercent is how far, in percent, the benchmark's own process lets its heap grow before it is collected. Go's default
// would look through it dozens of times a second, on the cores that everybody who is measured needs.
const clientGCPercent = 400

// Run measures what opts ask for. The error is for what ended the run, and the results so far are returned with it.
func Run(ctx context.Context, opts Options) (*Results, error) {
	checkout, err := harness.FindCheckout()
	if err != nil {
		return nil, err
	}
	if opts.Dir == "" {
		opts.Dir = checkout.Path(".cache", "bench")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(clientGCPercent))
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	b := &bench{opts: opts, checkout: checkout}
	if b.bolt, err = checkout.Command(ctx, "dapr-bolt"); err != nil {
		return nil, err
	}
	b.results = Results{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: describeMachine(ctx), Rounds: opts.Rounds,
		Peers: map[string]string{}, Missing: map[string]string{},
	}
	for i, run := range []func(context.Context) error{b.calls, b.sidecars, b.large, b.cluster} {
		if part := Parts()[i]; slices.Contains(opts.Parts, part) {
			if err := errors.Join(run(ctx), b.close()); err != nil {
				return &b.results, fmt.Errorf("%s: %w", part, err)
			}
		}
	}
	return &b.results, nil
}

func (b *bench) onClose(f func() error) { b.closers = append(b.closers, f) }

func (b *bench) close() error {
	var errs []error
	for _, f := range slices.Backward(b.closers) {
		errs = append(errs, f())
	}
	b.closers = nil
	return errors.Join(errs...)
}

// calls opens all peers at once and measures them side by side.
func (b *bench) calls(ctx context.Context) error {
	peers, err := b.open(ctx,
		opener{peerOurs, "", openBolt(b.bolt)},
		opener{peerBase, b.baseMissing(), openBolt(b.opts.Base)},
		opener{peerBare, "", openBare},
		opener{peerRedis, redisMissing(), openRedis},
		opener{peerSQLite, "", openSQLite},
		opener{peerJetStream, "", openJetStream},
		opener{peerDisk, "", openDisk})
	if err == nil {
		err = b.fill(ctx, peers)
	}
	if err != nil {
		return err
	}
	turns := slices.Concat(
		turnsOf(peers, workSet, 1, 16, 64, 256),
		turnsOf(peers, workGet, 1, 64),
		turnsOf(peers, workPing, 1),
		turnsOf(peers, workTwoSyncs, 1),
		turnsOf(peers, workPublish, 1, 64, 256),
		turnsOf(peers, workDeliver, 64))
	if err := b.rounds(ctx, turns); err != nil {
		return err
	}
	return b.repeat(ctx, turnsOf(peers, workSetLong, 64), longRounds, longTurn)
}

// longRounds is how often workSetLong is measured: a server that was just started may still be filling its log.
const longRounds = 3

// turn is a cell with who is measured in it.
type turn struct {
	cell Cell
	peer *peer
}

// turnsOf is a work by so many clients of all peers that can do it.
func turnsOf(peers []*peer, work string, clients ...int) (turns []turn) {
	for _, n := range clients {
		for _, p := range peers {
			if p.can(work) {
				turns = append(turns, turn{Cell{work, n, p.name}, p})
			}
		}
	}
	return turns
}

// rounds measures the turns as the options say.
func (b *bench) rounds(ctx context.Context, turns []turn) error {
	return b.repeat(ctx, turns, b.opts.Rounds, b.opts.Turn)
}

// repeat measures the turns one after the other, again and again, every other time backwards: what changes steadily favours
// nobody.
func (b *bench) repeat(ctx context.Context, turns []turn, rounds int, long time.Duration) error {
	for round := range rounds {
		for _, t := range turns {
			if err := b.measure(ctx, t, round, b.fewKeys(), long); err != nil {
				return err
			}
		}
		slices.Reverse(turns)
	}
	return nil
}

// measure makes one sample and keeps it.
func (b *bench) measure(ctx context.Context, t turn, round, keys int, long time.Duration) error {
	cell, p := t.cell, t.peer
	call, finish, err := p.work(ctx, cell.Work, keys, cell.Clients)
	if err != nil {
		return fmt.Errorf("%s: %w", cell, err)
	}
	before, beforeErr := usageOf(p.process)
	o := loop(ctx, cell.Clients, b.opts.Calls, long, call)
	if finish != nil {
		done, err := finish(o.done)
		if err != nil {
			o.fail(err)
		}
		o.elapsed = done.Sub(o.began)
	}
	s := o.sample(cell, round)
	after, afterErr := usageOf(p.process)
	if calls := o.done + o.errors; calls > 0 && beforeErr == nil && afterErr == nil {
		s.CPU = (after.cpu - before.cpu) / time.Duration(calls)
		s.Written = float64(after.written-before.written) / float64(calls)
	}
	b.keep(s)
	return ctx.Err()
}

func (b *bench) keep(s Sample) {
	b.results.Samples = append(b.results.Samples, s)
	b.progress("round %d  %-60s %10.0f/s  p50 %-9s p99 %-9s %s", s.Round+1, s.Cell, s.PerSecond, short(s.P50), short(s.P99), s.Error)
}

func (b *bench) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(b.opts.Progress, format+"\n", args...)
}

func (b *bench) fewKeys() int { return min(10_000, b.opts.Keys) }

// fill sets every key once, one client after the other: some peers refuse sets while others are under way.
func (b *bench) fill(ctx context.Context, peers []*peer) error {
	for _, p := range peers {
		for n := range b.fewKeys() {
			if p.set == nil {
				break
			}
			if err := p.set(ctx, keyName(n), value); err != nil {
				return fmt.Errorf("fill %s: %w", p.name, err)
			}
		}
	}
	return nil
}

// describeMachine names the processor, the system and the versions of what is measured beside dapr-bolt.
func describeMachine(ctx context.Context) string {
	machine := []string{fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())}
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, model, ok := strings.Cut(string(info), "model name\t: "); ok {
		machine = append(machine, strings.SplitN(model, "\n", 2)[0])
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range build.Deps {
			switch dep.Path {
			case "github.com/dapr/components-contrib", "github.com/dapr/dapr", "github.com/nats-io/nats-server/v2", "go.etcd.io/etcd/server/v3",
				"go.etcd.io/bbolt", "google.golang.org/grpc", "modernc.org/sqlite":
				machine = append(machine, dep.Path+" "+dep.Version)
			}
		}
	}
	postgres, _ := postgresPrograms()
	for _, program := range []string{redisServer, filepath.Join(postgres, postgresServer)} {
		if out, err := exec.CommandContext(ctx, program, "--version").Output(); err == nil {
			machine = append(machine, strings.TrimSpace(string(out)))
		}
	}
	return strings.Join(machine, "\n- ")
}
