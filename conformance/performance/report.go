package performance

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// PlotName is the file that the report shows, beside it.
const PlotName = "throughput.svg"

// Markdown is the report.
func (r *Results) Markdown() string {
	var text strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&text, format+"\n", args...) }
	row := func(cells ...string) { line("| %s |", strings.Join(cells, " | ")) }
	line("# What was measured\n")
	line("Written by `make bench`; the numbers are of one run on one machine, medians of %d rounds with the least and the most of", r.Rounds)
	line("them. In a round, what is compared is measured in turn, within seconds of each other.\n")
	line("%s, on:\n- %s", r.Date, r.Machine)
	line("\nClients, servers and the benchmark itself share those cores.\n")
	row("peer", "settings")
	row("---", "---")
	for _, name := range slices.Sorted(maps.Keys(r.Peers)) {
		row(name, r.Peers[name])
	}
	line("")
	for _, name := range slices.Sorted(maps.Keys(r.Missing)) {
		line("- **Not measured**: %s: %s\n", name, r.Missing[name])
	}

	line("## Promises\n")
	line("At 64 clients and 1 KiB unless they say otherwise. What is possible: a bare gRPC server in dapr-bolt's place, which does")
	line("nothing but append what it is sent to a log, with one sync for all who wait; before etcd, it puts what it is sent there, with")
	line("one transaction at a time for all who wait.\n")
	row("", "promised", "measured", "", "possible")
	row("---", "---", "---", "---", "---")
	for _, p := range Promises() {
		measured, kept := p.verdict(r)
		row(p.What, p.allowed(), measured, kept, p.possible(r))
	}

	line("\n## Side by side\n")
	line("Calls per second, and the 99th percentile of how long one took. %q counts until the last event was handled.\n", workDeliver)
	peers := slices.DeleteFunc(append(slices.Clone(components), peerDisk), func(peer string) bool {
		return !slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Cell.Peer == peer })
	})
	row(append([]string{"", "clients"}, peers...)...)
	row(append([]string{"---", "---:"}, slices.Repeat([]string{"---:"}, len(peers))...)...)
	for _, cell := range r.cells() {
		cells := []string{cell.Work, fmt.Sprint(cell.Clients)}
		for _, peer := range peers {
			cells = append(cells, r.entry(cell.of(peer)))
		}
		row(cells...)
	}
	if r.hasPlot() {
		line("\n![Sets per second against clients](%s)", PlotName)
	}
	r.failures(line)
	return text.String()
}

// cells are what was measured of anybody, in the order of the run.
func (r *Results) cells() (cells []Cell) {
	for _, s := range r.Samples {
		if cell := s.Cell.of(""); !slices.Contains(cells, cell) {
			cells = append(cells, cell)
		}
	}
	return cells
}

func (r *Results) entry(cell Cell) string {
	s, measured := r.median(cell)
	switch {
	case !measured:
		return ""
	case s.PerSecond == 0:
		return short(s.P50)
	}
	return fmt.Sprintf("%s (%s)", count(s.PerSecond), short(s.P99))
}

// failures lists what went wrong, so that no number hides it.
func (r *Results) failures(line func(format string, args ...any)) {
	for title, peers := "\n## Errors\n", append(slices.Clone(components), peerDisk); len(peers) > 0; peers = peers[1:] {
		for _, cell := range r.cells() {
			if s, _ := r.median(cell.of(peers[0])); s.Errors > 0 {
				line("%s- %s: %d errors, the first: %s", title, s.Cell, s.Errors, s.Error)
				title = ""
			}
		}
	}
}

// Plot draws sets per second against clients, as SVG: nothing if none were measured.
func (r *Results) Plot() (string, error) {
	if !r.hasPlot() {
		return "", nil
	}
	drawn := plot.New()
	drawn.Title.Text = "sets of 1 KiB per second"
	drawn.X.Label.Text = "clients"
	drawn.X.Scale, drawn.Y.Scale = plot.LogScale{}, plot.LogScale{}
	drawn.X.Tick.Marker = ticks{[]float64{1}, 2, func(v float64) string { return fmt.Sprint(v) }}
	drawn.Y.Tick.Marker = ticks{[]float64{1, 2, 5}, 10, count}
	drawn.Add(plotter.NewGrid())
	for i, peer := range components {
		var points plotter.XYs
		for _, cell := range r.cells() {
			if s, ok := r.median(cell.of(peer)); ok && cell.Work == workSet && s.PerSecond > 0 {
				points = append(points, plotter.XY{X: float64(cell.Clients), Y: s.PerSecond})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return "", err
		}
		line.Color, marks.Color, marks.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		drawn.Add(line, marks)
		drawn.Legend.Add(peer, line, marks)
	}
	drawn.Y.Min /= 8 // room for the legend
	w, err := drawn.WriterTo(20*vg.Centimeter, 14*vg.Centimeter, "svg")
	if err != nil {
		return "", err
	}
	var svg strings.Builder
	_, err = w.WriteTo(&svg)
	return svg.String(), err
}

func (r *Results) hasPlot() bool {
	return slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Cell.Work == workSet })
}

// ticks marks the steps times each power of base.
type ticks struct {
	steps []float64
	base  float64
	label func(float64) string
}

// Ticks implements plot.Ticker.
func (t ticks) Ticks(low, high float64) (marks []plot.Tick) {
	for power := math.Pow(t.base, math.Floor(math.Log(low)/math.Log(t.base))); power <= high; power *= t.base {
		for _, step := range t.steps {
			if v := power * step; v >= low && v <= high {
				marks = append(marks, plot.Tick{Value: v, Label: t.label(v)})
			}
		}
	}
	return marks
}

func count(n float64) string {
	digits := fmt.Sprintf("%.0f", n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// short rounds a duration to three digits.
func short(d time.Duration) string {
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}
