package performance

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// The benchmark starts itself again to be the bare server.
	if len(os.Args) == 5 && os.Args[1] == BareServerCommand {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := ServeBare(ctx, os.Args[2], BareKeeper(os.Args[3]), os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m,
		// Importing the runtime starts this one, for good.
		goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start"),
		// JetStream's component lets its connection end by itself, some time after Close.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats%2ego.(*Conn).drainConnection"))
}

// A run in small: every section, every peer, the report and the plot. How fast anybody is, is not tested.
func TestRun(t *testing.T) {
	opts := Options{
		Dir:      t.TempDir(),
		Rounds:   1,
		Duration: 100 * time.Millisecond,
		WarmUp:   time.Millisecond,
		Steady:   200 * time.Millisecond,
		Clients:  []int{1, headlineClients},
		Sizes:    []int{headlineSize},
		Stages:   []Stage{{}, {2_000, 2_000}, {4_000, 3_000}},
		Progress: os.Stderr,
	}
	results, err := Run(t.Context(), opts)
	require.NoError(t, err)

	missing := map[string]bool{}
	for _, m := range results.Missing {
		require.NotEmpty(t, m.Why)
		missing[string(m.Section)+" "+m.Peer] = true
	}
	require.False(t, missing["state "+ourState] || missing["pubsub "+ourPubSub] || missing["sidecars "+ourState] || missing["sidecars "+ourPubSub])
	measured := func(section Section, peer string, works ...string) {
		t.Helper()
		if missing[string(section)+" "+peer] {
			return
		}
		for _, work := range works {
			cell := Cell{section, work, peer, headlineClients, headlineSize}
			if work == workSteady {
				cell.Clients = 1
			}
			s, ok := results.Median(cell)
			if peer == ourState || peer == ourPubSub {
				require.True(t, ok, "%s", cell)
				require.Empty(t, s.Error, "%s", cell)
			}
			// SQLite may refuse everything in so short a time, or get nothing done.
			require.True(t, slices.ContainsFunc(results.Samples, func(s Sample) bool { return s.Cell == cell }), "%s", cell)
		}
	}
	for _, p := range statePeers() {
		measured(SectionState, p.name, workSet, workGet, workMixed, workTransaction)
		measured(SectionSidecars, p.name, workSet, workGet)
	}
	for _, p := range pubsubPeers() {
		measured(SectionPubSub, p.name, workPublish, workDeliver, workSteady)
		measured(SectionSidecars, p.name, workDeliver, workSteady)
	}

	require.Len(t, results.Growth, len(opts.Stages))
	last := results.Growth[len(results.Growth)-1]
	require.Greater(t, last.FileBytes, int64(last.Stage.Keys+last.Stage.Events)*headlineSize)
	require.Positive(t, last.OpenWarm)
	for _, grown := range []Grown{last.Sets, last.SetsWithEvents, last.Publishes, last.BareSets} {
		require.Positive(t, grown.Ratio)
	}
	require.LessOrEqual(t, last.KeyFileBytes, last.FileBytes)

	for _, p := range results.Promises() {
		if !strings.Contains(p.What, "`state.") && !strings.Contains(p.What, "`pubsub.") {
			require.True(t, p.Known, p.What)
		}
	}
	for _, heat := range heats() {
		for _, cell := range heat.cells {
			if missing[string(SectionBeside)+" "+cell.Peer] {
				continue
			}
			samples := slices.DeleteFunc(slices.Clone(results.Samples), func(s Sample) bool { return s.Cell != cell })
			require.Len(t, samples, besidePasses, "%s", cell)
			// In one pass as short as this test's, anybody may get nothing done, and SQLite in all of them.
			if cell.Peer != "state.sqlite" {
				require.NotEmpty(t, results.rates(cell), "%s", cell)
			}
		}
	}
	for _, keeper := range []BareKeeper{BareLog, BareBolt} {
		for _, work := range []string{workSet, workPublish, workDeliver} {
			s, ok := results.Median(Cell{SectionLimits, work, barePeer(keeper), headlineClients, headlineSize})
			require.True(t, ok, "%s with %s", work, keeper)
			require.Empty(t, s.Error)
		}
	}
	var report, drawn bytes.Buffer
	require.NoError(t, results.WriteMarkdown(&report))
	for _, p := range statePeers() {
		require.Contains(t, report.String(), p.name)
	}
	for _, p := range pubsubPeers() {
		require.Contains(t, report.String(), p.name)
	}
	for _, m := range results.Missing {
		require.Contains(t, report.String(), "**Not measured** ("+string(m.Section)+"): `"+m.Peer+"`")
	}
	require.NoError(t, results.WritePlot(&drawn))
	decoder := xml.NewDecoder(&drawn)
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
	}
}

func TestEvents(t *testing.T) {
	e, other := newEvents(128, 2), newEvents(128, 1)
	first, number, ok := e.make()
	require.True(t, ok)
	require.Len(t, first, 128)
	require.Equal(t, 0, number)
	second, _, _ := e.make()
	require.NotEqual(t, first, second)
	_, _, ok = e.make()
	require.False(t, ok, "there are two")

	number, new := e.arrive(second)
	require.Equal(t, 1, number)
	require.True(t, new)
	_, new = e.arrive(second)
	require.False(t, new, "it came before")
	foreign, _, _ := other.make()
	number, _ = e.arrive(foreign)
	require.Equal(t, -1, number)
	require.EqualValues(t, 1, e.unique.Load())
}

func TestMedian(t *testing.T) {
	cell := Cell{Section: SectionState, Work: workSet, Peer: ourState, Clients: 1, Size: 1}
	r := &Results{Samples: []Sample{
		{Cell: cell, PerSecond: 30, P50: 3, P99: 9},
		{Cell: cell, PerSecond: 10, P50: 1, P99: 7},
		{Cell: cell, PerSecond: 20, P50: 2, P99: 8, Errors: 2, Error: "no"},
		{Cell: cell, Error: "failed"},
	}}
	m, ok := r.Median(cell)
	require.True(t, ok)
	require.Equal(t, Sample{Cell: cell, PerSecond: 20, P50: 2, P99: 8, Errors: 2, Error: "no"}, m)
	_, ok = r.Median(Cell{})
	require.False(t, ok)
}

// What counts is the median of the ratios within a pass, however fast the machine was in each.
func TestPromises(t *testing.T) {
	for _, c := range []struct {
		name        string
		theirs      []float64
		known, kept bool
	}{
		{"kept", []float64{100, 10, 400}, true, true},
		{"just not", []float64{101, 10, 400}, true, false},
		{"unknown", nil, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Results{}
			add := func(peer string, rates ...float64) {
				for pass, rate := range rates {
					r.Samples = append(r.Samples, Sample{Cell: besideCell(workSet, headlineClients, peer), Round: pass, PerSecond: rate})
				}
			}
			add(ourState, 120, 9, 700)
			add(barePeer(BareLog), 200, 20, 800)
			add("state.redis", c.theirs...)
			p := r.Promises()[0]
			require.Equal(t, c.known, p.Known)
			require.Equal(t, c.kept, p.Kept)
			if c.kept {
				require.Equal(t, "1.20 × (0.90 to 1.75; 120 to 100 per second)", p.Measured)
				require.Equal(t, "2.00 ×", p.OnLog)
				require.Empty(t, p.OnBolt, "it was not measured")
			}
		})
	}
}

// One client's set is compared with what two syncs and a ping took in the same pass.
func TestOneSet(t *testing.T) {
	r := &Results{}
	add := func(cell Cell, rates ...float64) {
		for pass, rate := range rates {
			r.Samples = append(r.Samples, Sample{Cell: cell, Round: pass, PerSecond: rate})
		}
	}
	add(besideCell(workSet, 1, ourState), 1_000, 500, 2_000)
	add(besideCell(workTwoSyncs, 1, peerDisk), 2_000, 1_000, 2_000)
	add(besideCell(workPing, 1, ourState), 10_000, 2_000, 10_000)
	p := r.oneSet()
	require.True(t, p.Known)
	require.True(t, p.Kept)
	require.Equal(t, "1.33 × (0.83 to 1.67; 1ms to 600µs)", p.Measured)
}

func TestHumanNumbers(t *testing.T) {
	require.Equal(t, "1,234,567", count(1_234_567))
	require.Equal(t, "999", count(999))
	require.Equal(t, "1.23ms", short(1_234_567*time.Nanosecond))
	require.Equal(t, "64 KiB", byteSize(64<<10))
	require.Equal(t, "128 B", byteSize(128))
}
