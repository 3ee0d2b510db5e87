package performance

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Promise is a number that the project holds itself to. All of them stand in Promises and nowhere else.
type Promise struct {
	What string
	// Bound is the least that is allowed, or the most if AtMost is true, in Unit.
	Bound  float64
	AtMost bool
	Unit   string
	// of returns the numbers of the rounds with ours in our place; none: it was not measured.
	of func(r *Results, ours string) []float64
}

// Promises are the project's, at 64 clients and values and events of 1 KiB unless they say otherwise.
func Promises() []Promise {
	set := func(clients int) Cell { return Cell{workSet, clients, ""} }
	publish, deliver := Cell{workPublish, 64, ""}, Cell{workDeliver, 64, ""}
	among := func(work string) Cell { return Cell{work, 64, ""} }
	return []Promise{
		{"one client's set, against two syncs and a `Ping`", 1.15, true, "×", oneSet},
		{"one client's sets, against the other build", 1.3, false, "×", ratio(rate, set(1), peerBase)},
		{"sets of 16 clients, against the other build", 1.5, false, "×", ratio(rate, set(16), peerBase)},
		{"sets of 64 clients, against the other build", 1.35, false, "×", ratio(rate, set(64), peerBase)},
		{"sets of 256 clients, against the other build", 1.3, false, "×", ratio(rate, set(256), peerBase)},
		{"publishes, against the other build", 1.25, false, "×", ratio(rate, publish, peerBase)},
		{"published, delivered and acked, against the other build", 1.2, false, "×", ratio(rate, deliver, peerBase)},
		{"the server's CPU for a set, against the other build", 0.7, true, "×", ratio(cpu, set(64), peerBase)},
		{"the server's CPU for a publish, against the other build", 0.7, true, "×", ratio(cpu, publish, peerBase)},
		{"sets of 64 clients, against Redis", 0.85, false, "×", ratio(rate, set(64), peerRedis)},
		{"sets of 256 clients, against Redis", 1.05, false, "×", ratio(rate, set(256), peerRedis)},
		{"publishes, against Redis", 0.75, false, "×", ratio(rate, publish, peerRedis)},
		{"published, delivered and acked, against Redis", 1.05, false, "×", ratio(rate, deliver, peerRedis)},
		{"sets, against SQLite", 4.3, false, "×", ratio(rate, set(64), peerSQLite)},
		{"publishes, against JetStream", 2.7, false, "×", ratio(rate, publish, peerJetStream)},
		{"sets among all keys of a large file, against the other build", 1.6, false, "×", ratio(rate, among(workSetAmongAll), peerBase)},
		{"written to the disk for a set, among 10,000 keys", 2, true, "KiB", written(among(workSetLong))},
		{"written to the disk for a set, among a tenth of a large file's keys", 5, true, "KiB", written(among(workSetAmongTenth))},
		{"sets beside a query of every key, against sets alone", 0.5, false, "×", beside(workSetBesideRead)},
		{"sets beside a backup, against sets alone", 0.5, false, "×", beside(workSetBesideCopy)},
		{"growth of the file beside a query, against the bytes of what was set", 30, true, "×", growth(workSetBesideRead)},
		{"growth of the file beside a backup, against the bytes of what was set", 30, true, "×", growth(workSetBesideCopy)},
		{"99.9th percentile of a set through checkpoints, against the other build", 1, true, "×", ratio(p999, among(workSetLong), peerBase)},
		{"opening a large file after a SIGKILL, warm", 2, true, "s", opening(workOpenWarm)},
		{"opening a large file after a SIGKILL, cold", 5, true, "s", opening(workOpenCold)},
		{"one client's sets through two sidecars, against Redis", 0.68, false, "×", ratio(rate, Cell{workSidecars, 1, ""}, peerRedis)},
		{"sets on three etcd servers, against `state.etcd` there", 2, false, "×", ratio(rate, Cell{workClusterSet, 64, ""}, peerDapr)},
		{"sets through a sidecar on three etcd servers, against `state.etcd` in one", 2, false, "×", ratio(rate, Cell{workSidecarSet, 64, ""}, peerDapr)},
		{"publishes to three nats-servers with duplicates by id, against `pubsub.jetstream` there without", 0.6, false, "×", ratio(rate, Cell{workClusterPublish, 64, ""}, peerDapr)},
		{"publishes through a sidecar to three nats-servers with duplicates by id, against `pubsub.jetstream` in one without", 0.6, false, "×", ratio(rate, Cell{workSidecarPublish, 64, ""}, peerDapr)},
		{"sets of 64 clients through two sidecars, against Redis", 0.95, false, "×", ratio(rate, Cell{workSidecars, 64, ""}, peerRedis)},
	}
}

func rate(s Sample) float64 { return s.PerSecond }
func cpu(s Sample) float64  { return float64(s.CPU) }
func p999(s Sample) float64 { return float64(s.P999) }

// of is the cell of a peer.
func (c Cell) of(peer string) Cell {
	c.Peer = peer
	return c
}

// byRound has a number of each of a cell's samples that has one.
func (r *Results) byRound(cell Cell, number func(Sample) float64) map[int]float64 {
	numbers := map[int]float64{}
	for _, s := range r.Samples {
		if n := number(s); s.Cell == cell && n > 0 {
			numbers[s.Round] = n
		}
	}
	return numbers
}

// ratio compares a cell with that of another peer, measured in the same round.
func ratio(number func(Sample) float64, cell Cell, theirs string) func(*Results, string) []float64 {
	return func(r *Results, ours string) []float64 {
		return quotients(r.byRound(cell.of(ours), number), r.byRound(cell.of(theirs), number))
	}
}

// beside compares work with the same one alone.
func beside(work string) func(*Results, string) []float64 {
	return func(r *Results, ours string) []float64 {
		return quotients(r.byRound(Cell{work, 64, ours}, rate), r.byRound(Cell{workSetAmongAll, 64, ours}, rate))
	}
}

func quotients(a, b map[int]float64) (all []float64) {
	for _, round := range slices.Sorted(maps.Keys(a)) {
		if b[round] > 0 {
			all = append(all, a[round]/b[round])
		}
	}
	return all
}

// oneSet compares what one client waits for a set with what two syncs and a ping take.
func oneSet(r *Results, ours string) []float64 {
	mean := func(s Sample) float64 {
		if s.PerSecond == 0 {
			return 0
		}
		return 1 / s.PerSecond
	}
	floor := r.byRound(Cell{workTwoSyncs, 1, peerDisk}, mean)
	pings := r.byRound(Cell{workPing, 1, peerOurs}, mean)
	for round := range floor {
		if floor[round] += pings[round]; pings[round] == 0 {
			delete(floor, round)
		}
	}
	return quotients(r.byRound(Cell{workSet, 1, ours}, mean), floor)
}

func written(cell Cell) func(*Results, string) []float64 {
	return numbers(cell, func(s Sample) float64 { return s.Written / (1 << 10) })
}

func growth(work string) func(*Results, string) []float64 {
	return func(r *Results, ours string) (all []float64) {
		for _, s := range r.Samples {
			if s.Cell == (Cell{work, 64, ours}) && s.Error == "" {
				all = append(all, s.Growth) // a file that did not grow is a number, too
			}
		}
		return all
	}
}

func opening(work string) func(*Results, string) []float64 {
	return numbers(Cell{work, 1, ""}, func(s Sample) float64 { return s.P50.Seconds() })
}

func numbers(cell Cell, number func(Sample) float64) func(*Results, string) []float64 {
	return func(r *Results, ours string) []float64 {
		return slices.Collect(maps.Values(r.byRound(cell.of(ours), number)))
	}
}

// verdict says what was measured, and whether the promise is kept.
func (p *Promise) verdict(r *Results) (measured, kept string) {
	all := p.of(r, peerOurs)
	if len(all) == 0 {
		return "not measured", ""
	}
	got := median(all)
	measured = fmt.Sprintf("%.2f %s", got, p.Unit)
	if len(all) > 1 {
		measured += fmt.Sprintf(" (%.2f to %.2f)", slices.Min(all), slices.Max(all))
	}
	if got == p.Bound || got < p.Bound == p.AtMost {
		return measured, "kept"
	}
	return measured, "NOT KEPT"
}

// possible is what the bare server reaches in our place; empty: that says nothing.
func (p *Promise) possible(r *Results) string {
	if all := p.of(r, peerBare); len(all) > 0 {
		return fmt.Sprintf("%.2f %s", median(all), p.Unit)
	}
	return ""
}

func (p *Promise) allowed() string {
	word := "at least"
	if p.AtMost {
		word = "at most"
	}
	return fmt.Sprintf("%s %g %s", word, p.Bound, p.Unit)
}

// median sorts the values.
func median[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

// median returns the medians of a cell's samples, and false if it was not measured.
func (r *Results) median(cell Cell) (m Sample, measured bool) {
	var rates []float64
	var p50, p99 []time.Duration
	for _, s := range r.Samples {
		if s.Cell == cell {
			rates, p50, p99 = append(rates, s.PerSecond), append(p50, s.P50), append(p99, s.P99)
			m.Errors += s.Errors
			m.Error = cmp.Or(m.Error, s.Error)
		}
	}
	if len(rates) == 0 {
		return m, false
	}
	m.Cell, m.PerSecond, m.P50, m.P99 = cell, median(rates), median(p50), median(p99)
	return m, true
}
