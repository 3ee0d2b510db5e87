package performance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// Section is a part of a run.
type Section string

// The sections, in the order in which they run.
const (
	SectionBeside   Section = "beside"
	SectionLimits   Section = "limits"
	SectionState    Section = "state"
	SectionPubSub   Section = "pubsub"
	SectionSidecars Section = "sidecars"
	SectionGrowth   Section = "growth"
)

// Sections lists them all.
func Sections() []Section {
	return []Section{SectionBeside, SectionLimits, SectionState, SectionPubSub, SectionSidecars, SectionGrowth}
}

// Stage is how much is in the file when growth is measured.
type Stage struct {
	Keys   int `json:"keys"`
	Events int `json:"events"`
}

// Options say what to measure and for how long. The zero value of a field is its default.
type Options struct {
	// Dir is where databases are kept meanwhile. It must be on the disk that is to be measured, not in memory. Default:
	// .cache/bench in the checkout.
	Dir string
	// Sections are the parts to run. Default: all.
	Sections []Section
	// Rounds is how often each cell is measured; the median counts. Default: 3.
	Rounds int
	// Duration is how long one measurement takes, WarmUp what passes before it. Defaults: 1.5 s and 300 ms.
	Duration, WarmUp time.Duration
	// Steady is how long events are published at a steady rate. Default: 5 s.
	Steady time.Duration
	// Clients and Sizes span the table. Defaults: 1, 16, 64, 256 and 128 B, 1 KiB, 64 KiB.
	Clients, Sizes []int
	// Stages are what growth is measured at, each at least as large as the one before. Default: empty, a million keys and
	// events, and ten million keys with five million events.
	Stages []Stage
	// Progress is told what is being measured. Default: nobody is.
	Progress io.Writer
}

func (o *Options) setDefaults(checkout harness.Checkout) {
	if o.Dir == "" {
		o.Dir = checkout.Path(".cache", "bench")
	}
	if len(o.Sections) == 0 {
		o.Sections = Sections()
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.Duration == 0 {
		o.Duration = 1500 * time.Millisecond
	}
	if o.WarmUp == 0 {
		o.WarmUp = 300 * time.Millisecond
	}
	if o.Steady == 0 {
		o.Steady = 5 * time.Second
	}
	if len(o.Clients) == 0 {
		o.Clients = []int{1, 16, headlineClients, 256}
	}
	if len(o.Sizes) == 0 {
		o.Sizes = []int{128, headlineSize, 64 << 10}
	}
	if len(o.Stages) == 0 {
		o.Stages = []Stage{{}, {1_000_000, 1_000_000}, {10_000_000, 5_000_000}}
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
}

// The promises are about this many clients and values of this size, unless they say otherwise.
const (
	headlineClients = 64
	headlineSize    = 1 << 10
)

// clientGCPercent is how far, in percent, the benchmark's own process lets its heap grow before it is collected. It
// keeps a few megabytes, which Go's default would look through dozens of times a second, on the cores that everybody who
// is measured needs. What peers keep in this process is collected as rarely.
const clientGCPercent = 400

// Results are what a run measured.
type Results struct {
	Machine Machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Each    string    `json:"each"`
	Samples []Sample  `json:"samples"`
	Growth  []Growth  `json:"growth,omitempty"`
	Missing []Missing `json:"missing,omitempty"`
}

// Missing is a peer that was not measured.
type Missing struct {
	Section Section `json:"section"`
	Peer    string  `json:"peer"`
	Why     string  `json:"why"`
}

// Bench is one run.
type Bench struct {
	opts     Options
	checkout harness.Checkout
	bolt     string // the binary
	results  Results
}

// Run measures what opts ask for. A peer that cannot be measured is in Results.Missing; the error is for what ended the
// run, and the results so far are returned with it.
func Run(ctx context.Context, opts Options) (*Results, error) {
	checkout, err := harness.FindCheckout()
	if err != nil {
		return nil, err
	}
	opts.setDefaults(checkout)
	defer debug.SetGCPercent(debug.SetGCPercent(clientGCPercent))
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	b := &Bench{opts: opts, checkout: checkout}
	if b.bolt, err = checkout.Command(ctx, "dapr-bolt", opts.Progress); err != nil {
		return nil, err
	}
	b.results = Results{Machine: describeMachine(ctx), Rounds: opts.Rounds, Each: opts.Duration.String()}
	for round := range opts.Rounds {
		for _, part := range []struct {
			section Section
			run     func(context.Context, int) error
		}{
			{SectionBeside, b.beside},
			{SectionLimits, b.limits},
			{SectionState, b.state},
			{SectionPubSub, b.pubsub},
			{SectionSidecars, b.sidecars},
		} {
			if !slices.Contains(opts.Sections, part.section) {
				continue
			}
			if err := part.run(ctx, round); err != nil {
				return &b.results, fmt.Errorf("%s: %w", part.section, err)
			}
		}
	}
	if slices.Contains(opts.Sections, SectionGrowth) {
		for _, run := range []func(context.Context) error{b.growth, b.bareGrowth} {
			if err := run(ctx); err != nil {
				return &b.results, fmt.Errorf("%s: %w", SectionGrowth, err)
			}
		}
	}
	return &b.results, nil
}

func (b *Bench) record(s Sample) {
	b.results.Samples = append(b.results.Samples, s)
	line := fmt.Sprintf("round %d  %-66s %10.0f/s  p50 %-9s p99 %-9s", s.Round+1, s.Cell, s.PerSecond, short(s.P50), short(s.P99))
	if s.Error != "" {
		line += fmt.Sprintf("  %d errors: %s", s.Errors, s.Error)
	}
	b.progress(line)
}

func (b *Bench) miss(section Section, name string, why error) {
	m := Missing{section, name, why.Error()}
	if !slices.Contains(b.results.Missing, m) {
		b.results.Missing = append(b.results.Missing, m)
		b.progress(fmt.Sprintf("%s: %s is not measured: %s", section, name, why))
	}
}

// present notes a peer that is missing.
func (b *Bench) present(section Section, name string, missing func() error) bool {
	if missing == nil {
		return true
	}
	err := missing()
	if err != nil {
		b.miss(section, name, err)
	}
	return err == nil
}

func (b *Bench) progress(line string) { _, _ = fmt.Fprintln(b.opts.Progress, line) }

// inWorld runs measure in a world of its own.
func (b *Bench) inWorld(measure func(w *world) error) error {
	w, err := b.newWorld()
	if err != nil {
		return err
	}
	return errors.Join(measure(w), w.Close())
}
