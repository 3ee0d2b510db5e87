package performance

import (
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

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

func TestMain(m *testing.M) {
	// The benchmark starts itself again to be the bare server.
	if len(os.Args) == 4 && os.Args[1] == BareServerCommand {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := ServeBare(ctx, os.Args[2], os.Args[3]); err != nil {
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

// A run in small, by numbers of calls: every part, every peer that can be had, the report and the plot. How fast anybody is, is
// not tested.
func TestRun(t *testing.T) {
	base, err := harness.BoltProgram()
	require.NoError(t, err)
	const rounds, calls = 2, 40
	results, err := Run(t.Context(), Options{
		Parts: Parts(), Dir: t.TempDir(), Base: base, Rounds: rounds, Calls: calls, Keys: 500, Events: 500, Progress: os.Stderr,
	})
	require.NoError(t, err)

	for _, p := range Promises() {
		measured, _ := p.verdict(results)
		missing := slices.ContainsFunc([]string{peerRedis}, func(peer string) bool {
			return strings.Contains(p.What, peer) && results.Missing[peer] != ""
		})
		// So few calls may take less of a processor than the clock of processes can tell.
		if !missing && !strings.Contains(p.What, "CPU") {
			require.NotContains(t, measured, "not measured", p.What)
		}
	}
	for _, s := range results.Samples {
		if s.Cell.Peer == peerOurs {
			require.Empty(t, s.Error, "%s", s.Cell)
		}
		if s.Done > 0 && s.Cell.Peer != peerSQLite { // which may refuse calls
			require.Equal(t, calls, s.Done, "%s", s.Cell)
		}
	}
	report := results.Markdown()
	for peer := range results.Peers {
		require.Contains(t, report, "| "+peer+" |")
	}
	for peer := range results.Missing {
		require.Contains(t, report, "**Not measured**: "+peer)
	}
	drawn, err := results.Plot()
	require.NoError(t, err)
	for decoder := xml.NewDecoder(strings.NewReader(drawn)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
	}
}

func TestEvents(t *testing.T) {
	event := newEvent(42)
	require.Len(t, event, size)
	require.Equal(t, "000000000042", eventID(event))
	require.Empty(t, eventID([]byte(`{"id":"short"}`)))
}

// What counts is the median of the ratios within a round, however fast the machine was in each.
func TestPromises(t *testing.T) {
	add := func(r *Results, cell Cell, rates ...float64) {
		for round, rate := range rates {
			r.Samples = append(r.Samples, Sample{Cell: cell, Round: round, PerSecond: rate})
		}
	}
	of := func(what string) *Promise {
		for _, p := range Promises() {
			if p.What == what {
				return &p
			}
		}
		t.Fatalf("no promise is called %q", what)
		return nil
	}
	for _, test := range []struct {
		name           string
		theirs         []float64
		measured, kept string
	}{
		{"kept", []float64{100, 10, 400}, "0.90 × (0.85 to 1.75)", "kept"},
		{"not kept", []float64{120, 20, 400}, "0.71 × (0.45 to 1.75)", "NOT KEPT"},
		{"not measured", nil, "not measured", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &Results{}
			add(r, Cell{workSet, 64, peerOurs}, 85, 9, 700)
			add(r, Cell{workSet, 64, peerBare}, 200, 20, 800)
			add(r, Cell{workSet, 64, peerRedis}, test.theirs...)
			p := of("sets of 64 clients, against Redis")
			measured, kept := p.verdict(r)
			require.Equal(t, test.measured, measured)
			require.Equal(t, test.kept, kept)
			if test.kept == "kept" {
				require.Equal(t, "2.00 ×", p.possible(r))
			}
		})
	}
	t.Run("one client's set", func(t *testing.T) {
		r := &Results{}
		add(r, Cell{workSet, 1, peerOurs}, 1_000, 500, 2_000)
		add(r, Cell{workTwoSyncs, 1, peerDisk}, 2_000, 1_000, 2_000)
		add(r, Cell{workPing, 1, peerOurs}, 10_000, 2_000, 10_000)
		measured, kept := of("one client's set, against two syncs and a `Ping`").verdict(r)
		require.Equal(t, "1.33 × (0.83 to 1.67)", measured)
		require.Equal(t, "NOT KEPT", kept)
	})
}

func TestHumanNumbers(t *testing.T) {
	require.Equal(t, "1,234,567", count(1_234_567))
	require.Equal(t, "999", count(999))
	require.Equal(t, "1.23ms", short(1_234_567*time.Nanosecond))
}
