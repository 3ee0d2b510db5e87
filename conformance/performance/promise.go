package performance

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Promise is a ratio that the project holds itself to, at 64 clients and 1 KiB unless it says otherwise.
type Promise struct {
	What string
	// Allowed and Measured are as a person reads them. Kept is meaningful if Known is true; otherwise Measured says why
	// it is not.
	Allowed, Measured string
	Known, Kept       bool
	// OnBolt and OnLog are what the bare server reaches, with bbolt and with a log, in place of dapr-bolt; empty where that
	// says nothing.
	OnBolt, OnLog string
}

// Promises compares what was measured with what is promised.
func (r *Results) Promises() []Promise {
	return []Promise{
		r.atLeast("durable sets against `state.redis`, AOF always", 1.2, workSet, ourState, "state.redis"),
		r.atLeast("durable sets against `state.sqlite`", 5, workSet, ourState, "state.sqlite"),
		r.gets(),
		r.atLeast("durable publishes against `pubsub.redis`, AOF always", 1.2, workPublish, ourPubSub, "pubsub.redis"),
		r.atLeast("durable publishes against `pubsub.jetstream`, sync always", 5, workPublish, ourPubSub, "pubsub.jetstream"),
		r.atLeast("published, delivered and acked, against `pubsub.redis`, AOF always", 1.5, workDeliver, ourPubSub, "pubsub.redis"),
		r.oneSet(),
		r.grownSets(),
		r.grownPublishes(),
		r.handled(Cell{SectionPubSub, workSteady, ourPubSub, 1, headlineSize}),
		r.opening(),
	}
}

const notMeasured = "not measured"

// atLeast compares one of our components with a peer, and the bare servers with that peer.
func (r *Results) atLeast(what string, ratio float64, work, ours, theirs string) Promise {
	peer := besideCell(work, headlineClients, theirs)
	p := r.compare(what, ratio, besideCell(work, headlineClients, ours), peer)
	p.OnBolt = r.times(besideCell(work, headlineClients, barePeer(BareBolt)), peer)
	p.OnLog = r.times(besideCell(work, headlineClients, barePeer(BareLog)), peer)
	return p
}

func (r *Results) gets() Promise {
	of := func(peer string) (gets, pings Cell) {
		return besideCell(workGet, headlineClients, peer), besideCell(workPing, headlineClients, peer)
	}
	gets, pings := of(ourState)
	p := r.compare("gets against `Ping` on the same socket", 0.8, gets, pings)
	p.OnBolt = r.times(of(barePeer(BareBolt)))
	return p
}

func (r *Results) compare(what string, least float64, ours, theirs Cell) Promise {
	p := Promise{What: what, Allowed: fmt.Sprintf("at least %g ×", least), Measured: notMeasured}
	ratios := r.ratios(ours, theirs)
	if len(ratios) == 0 {
		return p
	}
	a, _ := r.Median(ours)
	b, _ := r.Median(theirs)
	got := median(ratios)
	p.Known, p.Kept = true, got >= least
	p.Measured = fmt.Sprintf("%.2f × (%.2f to %.2f; %s to %s per second)", got, ratios[0], ratios[len(ratios)-1],
		count(a.PerSecond), count(b.PerSecond))
	return p
}

// times is the median ratio of two rates; empty: one of them was not measured.
func (r *Results) times(a, b Cell) string {
	ratios := r.ratios(a, b)
	if len(ratios) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f ×", median(ratios))
}

func (r *Results) oneSet() Promise {
	const most = 1.5
	p := Promise{
		What:     "latency of one client's durable set, against the two syncs of a commit plus one `Ping`",
		Allowed:  fmt.Sprintf("at most %g ×", most),
		Measured: notMeasured,
	}
	latencies, floors := r.oneSets(ourState)
	if len(latencies) == 0 {
		return p
	}
	ratios := quotients(latencies, floors)
	got := median(ratios)
	p.Known, p.Kept = true, got <= most
	p.Measured = fmt.Sprintf("%.2f × (%.2f to %.2f; %s to %s)", got, ratios[0], ratios[len(ratios)-1],
		short(time.Duration(median(latencies))), short(time.Duration(median(floors))))
	bare := func(keeper BareKeeper) string {
		latencies, floors := r.oneSets(barePeer(keeper))
		if len(latencies) == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f ×", median(quotients(latencies, floors)))
	}
	p.OnBolt, p.OnLog = bare(BareBolt), bare(BareLog)
	return p
}

// oneSets returns, for each time that it was measured, the latency of one client's set, and of two syncs and a ping, in
// nanoseconds.
func (r *Results) oneSets(peer string) (latencies, floors []float64) {
	sets := r.rates(besideCell(workSet, 1, peer))
	syncs, pings := r.rates(besideCell(workTwoSyncs, 1, peerDisk)), r.rates(besideCell(workPing, 1, ourState))
	for _, round := range slices.Sorted(maps.Keys(sets)) {
		if syncs[round] > 0 && pings[round] > 0 {
			latencies = append(latencies, float64(meanLatency(sets[round])))
			floors = append(floors, float64(meanLatency(syncs[round])+meanLatency(pings[round])))
		}
	}
	return latencies, floors
}

func quotients(a, b []float64) []float64 {
	q := make([]float64, len(a))
	for i := range a {
		q[i] = a[i] / b[i]
	}
	slices.Sort(q)
	return q
}

func (r *Results) grownSets() Promise {
	p := r.grown("sets per second with the most keys against an empty file", 0.7, func(last *Growth) (Grown, string) {
		before := r.Growth[len(r.Growth)-2].Stage.Events
		return last.Sets, fmt.Sprintf("%s keys, %s events, %s; %.2f × with %s", count(float64(last.Stage.Keys)), count(float64(before)),
			mebibytes(last.KeyFileBytes), last.SetsWithEvents.Ratio, last.contents())
	})
	if p.Known {
		p.OnBolt = fmt.Sprintf("%.2f ×", r.Growth[len(r.Growth)-1].BareSets.Ratio)
	}
	return p
}

func (r *Results) grownPublishes() Promise {
	return r.grown("publishes per second with the most events waiting, and as many ids in the window, against none", 0.8,
		func(last *Growth) (Grown, string) { return last.Publishes, last.contents() })
}

// grown is about the last stage. of also says what was in the file.
func (r *Results) grown(what string, least float64, of func(last *Growth) (Grown, string)) Promise {
	p := Promise{What: what, Allowed: fmt.Sprintf("at least %g ×", least), Measured: notMeasured}
	if len(r.Growth) < 2 {
		return p
	}
	g, where := of(&r.Growth[len(r.Growth)-1])
	p.Known, p.Kept = true, g.Ratio >= least
	p.Measured = fmt.Sprintf("%.2f × (%s to %s per second, %s)", g.Ratio, count(g.PerSecond), count(g.Empty), where)
	return p
}

func (g *Growth) contents() string {
	return fmt.Sprintf("%s keys, %s events, %s", count(float64(g.Stage.Keys)), count(float64(g.Stage.Events)), mebibytes(g.FileBytes))
}

func (r *Results) handled(ours Cell) Promise {
	const most = 10 * time.Millisecond
	p := Promise{
		What:     "publish to handler at 1,000 events per second, 99th percentile",
		Allowed:  "at most " + most.String(),
		Measured: notMeasured,
	}
	if s, ok := r.Median(ours); ok {
		p.Known, p.Kept, p.Measured = true, s.P99 <= most, short(s.P99)
	}
	return p
}

func (r *Results) opening() Promise {
	const most = 2 * time.Second
	p := Promise{
		What:     "from the start of the process to both components initialised, on the largest file, lately used",
		Allowed:  "at most " + most.String(),
		Measured: notMeasured,
	}
	if len(r.Growth) == 0 {
		return p
	}
	last := &r.Growth[len(r.Growth)-1]
	p.Known, p.Kept = true, last.OpenWarm <= most
	p.Measured = fmt.Sprintf("%s; %s with nothing of the file in memory (%s)", short(last.OpenWarm), short(last.OpenCold), last.contents())
	return p
}
