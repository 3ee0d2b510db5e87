package performance

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// PlotName is the file that the report shows, beside it.
const PlotName = "throughput.svg"

// WritePromises prints what was promised and what was measured, for a terminal.
func (r *Results) WritePromises(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range r.Promises() {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", p.What, p.Allowed, p.Measured, p.verdict())
	}
	return table.Flush()
}

func (p *Promise) verdict() string {
	switch {
	case !p.Known:
		return ""
	case p.Kept:
		return "kept"
	default:
		return "NOT KEPT"
	}
}

// WriteMarkdown writes the whole report.
func (r *Results) WriteMarkdown(out io.Writer) error {
	w := &markdown{}
	w.line("# What was measured")
	w.line("")
	w.line("Written by `make bench`; the numbers are of one run on one machine. Medians of %d rounds, %s for each number.", r.Rounds, r.Each)
	w.line("")
	m := &r.Machine
	w.line("%s: %s, %d cores, %s, %s.", m.Date, m.CPU, m.Cores, m.System, m.Go)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		w.line("- %s %s", name, m.Versions[name])
	}
	w.line("")
	w.line("Clients, servers and the benchmark itself share those cores. dapr-bolt is called through the runtime's adapter, over its")
	w.line("Unix socket; the peers' packages are called directly in the benchmark's process, which spares them that socket.")
	w.line("That process collects its garbage at GOGC=%d, whoever is measured.", clientGCPercent)
	w.line("")
	w.line("## Promises")
	w.line("")
	w.line("At %d clients and %s unless they say otherwise. What is possible: a bare gRPC server in dapr-bolt's place, which does", headlineClients, byteSize(headlineSize))
	w.line("nothing but keep what it is sent, with one commit for all who wait. It has no ETags, no ids to remember, no retries and no")
	w.line("limits; its bbolt file has one bucket, and its log cannot be read.")
	w.line("")
	w.line("What is compared was measured in turn, within seconds: the speed of a machine that others use, too, changes by half within")
	w.line("minutes. A ratio is the median of those of %d passes, with the least and the most of them. In a pass, gets and `Ping`, and", r.Rounds*besidePasses)
	w.line("what one client's set is compared with, alternate %d times. The tables further down hold numbers that lie minutes apart.", shortTurns)
	w.line("")
	w.row("", "promised", "measured", "", "bare, on bbolt", "bare, on a log")
	w.row("---", "---", "---", "---", "---", "---")
	for _, p := range r.Promises() {
		w.row(p.What, p.Allowed, p.Measured, p.verdict(), p.OnBolt, p.OnLog)
	}
	w.line("")
	r.tables(w, SectionBeside, "Side by side", ourState, ourPubSub)
	r.peers(w)
	if r.Plots() {
		w.line("![Throughput against clients](%s)", PlotName)
		w.line("")
	}
	r.limitTables(w)
	r.tables(w, SectionState, "State", ourState)
	w.line("Sets, gets and transactions choose at random among %d keys (%d with values above 4 KiB). Mixed is %d gets to one set.",
		keysOf(0), keysOf(64<<10), getsOfMixed)
	w.line("")
	r.tables(w, SectionPubSub, "Pub/sub", ourPubSub)
	w.line("Every event has an id of its own. \"%s\" counts from the first publish until the last event was handled by the one", workDeliver)
	w.line("subscriber and acknowledged; dapr-bolt is asked whether it was, the peers' acknowledgements are taken at their word.")
	w.line("")
	r.tables(w, SectionSidecars, "Through two sidecars", ourState, ourPubSub)
	w.line("State calls go to the gRPC APIs of both sidecars in turn. Events are published to the first one's and handled by an app behind")
	w.line("the second one, over HTTP. From 1.16 on, daprd hands the events of a component behind a socket to the app one at a time")
	w.line("(https://github.com/dapr/dapr/issues/10470, mended after 1.18.3); those of `pubsub.redis`, which is built in, ten at a time.")
	w.line("")
	r.growthTable(w)
	r.failures(w)
	_, err := io.WriteString(out, w.text.String())
	return err
}

type markdown struct{ text strings.Builder }

func (w *markdown) line(format string, args ...any) { fmt.Fprintf(&w.text, format+"\n", args...) }

func (w *markdown) row(cells ...string) { w.line("| %s |", strings.Join(cells, " | ")) }

// peers tells how each was set up, and which are missing.
func (r *Results) peers(w *markdown) {
	w.line("## Peers")
	w.line("")
	w.row("peer", "settings")
	w.row("---", "---")
	for _, p := range statePeers() {
		w.row("`"+p.name+"`", p.settings)
	}
	for _, p := range pubsubPeers() {
		w.row("`"+p.name+"`", p.settings)
	}
	w.line("")
	for _, m := range r.Missing {
		w.line("- **Not measured** (%s): `%s`: %s", m.Section, m.Peer, m.Why)
	}
	if len(r.Missing) > 0 {
		w.line("")
	}
}

func (r *Results) limitTables(w *markdown) {
	cells := r.cells(SectionLimits)
	if len(cells) == 0 {
		return
	}
	w.line("## Limits of the machine")
	w.line("")
	w.row("", "clients", "per second", "p50", "p99")
	w.row("---", "---:", "---:", "---:", "---:")
	for _, c := range cells {
		if s, ok := r.Median(c); ok {
			w.row(c.Work+", "+c.Peer, fmt.Sprint(c.Clients), count(s.PerSecond), short(s.P50), short(s.P99))
		}
	}
	w.line("")
}

// tables has one table for each work and size: a row for each peer, a column for each number of clients.
func (r *Results) tables(w *markdown, section Section, title string, ours ...string) {
	cells := r.cells(section)
	if len(cells) == 0 {
		return
	}
	w.line("## %s", title)
	w.line("")
	type group struct {
		work string
		size int
	}
	var groups []group
	for _, c := range cells {
		if g := (group{c.Work, c.Size}); !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		var peers []string
		var clients []int
		for _, c := range cells {
			if c.Work != g.work || c.Size != g.size {
				continue
			}
			if !slices.Contains(peers, c.Peer) {
				peers = append(peers, c.Peer)
			}
			if !slices.Contains(clients, c.Clients) {
				clients = append(clients, c.Clients)
			}
		}
		title := g.work
		if g.size > 0 {
			title += ", " + byteSize(g.size)
		}
		w.line("### %s", title)
		w.line("")
		if g.work == workSteady {
			r.latencyTable(w, section, g.work, g.size, peers)
			continue
		}
		header, rule := []string{"per second (p99), ours against it"}, []string{"---"}
		for _, n := range clients {
			header, rule = append(header, plural(n, "client")), append(rule, "---:")
		}
		w.row(header...)
		w.row(rule...)
		for _, peer := range peers {
			row := []string{"`" + peer + "`"}
			for _, n := range clients {
				row = append(row, r.entry(Cell{section, g.work, peer, n, g.size}, ours))
			}
			w.row(row...)
		}
		w.line("")
	}
}

func (r *Results) latencyTable(w *markdown, section Section, work string, size int, peers []string) {
	w.row("", "p50", "p99", "handled per second")
	w.row("---", "---:", "---:", "---:")
	for _, peer := range peers {
		s, ok := r.Median(Cell{section, work, peer, 1, size})
		if !ok {
			w.row("`"+peer+"`", notMeasured, "", "")
			continue
		}
		w.row("`"+peer+"`", short(s.P50), short(s.P99), count(s.PerSecond))
	}
	w.line("")
}

// entry is a peer's number, with ours as a multiple of it.
func (r *Results) entry(cell Cell, ours []string) string {
	s, ok := r.Median(cell)
	switch {
	case !r.sampled(cell):
		return ""
	case !ok:
		return "failed"
	}
	text := fmt.Sprintf("%s (%s)", count(s.PerSecond), short(s.P99))
	if s.Errors > 0 {
		text += fmt.Sprintf(", %d errors", s.Errors)
	}
	if slices.Contains(ours, cell.Peer) {
		return "**" + text + "**"
	}
	for _, name := range ours {
		mine := cell
		mine.Peer = name
		if o, ok := r.Median(mine); ok {
			return fmt.Sprintf("%s, %.2f ×", text, o.PerSecond/s.PerSecond)
		}
	}
	return text
}

func (r *Results) growthTable(w *markdown) {
	if len(r.Growth) == 0 {
		return
	}
	w.line("## Growth")
	w.line("")
	w.line("One file, %d clients, %s. Sets are of random keys among the most that there will be, first when only the", headlineClients, byteSize(headlineSize))
	w.line("row's keys are in (and the events of the row above), then with its events as well: that file may be larger than the machine's")
	w.line("memory. Events wait for a group that is away, and all their ids are in the window. Each number stands beside that of a")
	w.line("process whose file was empty, measured in turn with it. Opening is from the start of the process until both components are")
	w.line("initialised; cold means that the kernel was asked to forget the file first. Memory is the process's own, without the mapped")
	w.line("file.")
	w.line("")
	w.row("keys", "events and ids", "sets per second, before the events", "a bare server with bbolt", "file then", "sets per second", "publishes per second", "open, warm", "open, cold", "memory, opened", "memory, measured", "file", "bytes per key", "bytes per event")
	w.row(slices.Repeat([]string{"---:"}, 14)...)
	for i := range r.Growth {
		g := &r.Growth[i]
		w.row(count(float64(g.Stage.Keys)), count(float64(g.Stage.Events)), g.Sets.String(), g.BareSets.String(), mebibytes(g.KeyFileBytes), g.SetsWithEvents.String(), g.Publishes.String(),
			short(g.OpenWarm), short(g.OpenCold), mebibytes(g.Resident), mebibytes(g.ResidentAfter), mebibytes(g.FileBytes), count(g.KeyBytes), count(g.EventBytes))
	}
	w.line("")
}

// String is a rate with its ratio to that of an empty file.
func (g Grown) String() string { return fmt.Sprintf("%s, %.2f ×", count(g.PerSecond), g.Ratio) }

// failures lists what went wrong, so that no number hides it.
func (r *Results) failures(w *markdown) {
	var lines []string
	for i := range r.Samples {
		if s := &r.Samples[i]; s.Error != "" {
			lines = append(lines, fmt.Sprintf("- %s, round %d: %d errors, the first: %s", s.Cell, s.Round+1, s.Errors, s.Error))
		}
	}
	if len(lines) == 0 {
		return
	}
	w.line("## Errors")
	w.line("")
	for _, line := range lines {
		w.line("%s", line)
	}
}

func (r *Results) sampled(cell Cell) bool {
	return slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Cell == cell })
}

// cells lists what a section measured, in that order.
func (r *Results) cells(section Section) []Cell {
	var cells []Cell
	seen := map[Cell]bool{}
	for i := range r.Samples {
		if c := r.Samples[i].Cell; c.Section == section && !seen[c] {
			seen[c] = true
			cells = append(cells, c)
		}
	}
	return cells
}

func count(n float64) string {
	digits := fmt.Sprintf("%.0f", n)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func mebibytes(n int64) string { return count(float64(n>>20)) + " MiB" }

// short rounds a duration to three digits.
func short(d time.Duration) string {
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}
