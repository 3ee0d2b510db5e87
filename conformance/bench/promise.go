package bench

import (
	"fmt"
	"time"
)

// Promise is a ratio that the project holds itself to, at 64 clients and 1 KiB unless it says otherwise.
type Promise struct {
	What string
	// Allowed and Measured are as a person reads them. Kept is meaningful if Known is true; otherwise Measured says why
	// it is not.
	Allowed, Measured string
	Known, Kept       bool
}

// Promises compares what was measured with what is promised.
func (r *Results) Promises() []Promise {
	at := func(section Section, work, peer string, clients int) Cell {
		return Cell{Section: section, Work: work, Peer: peer, Clients: clients, Size: headlineSize}
	}
	headline := func(section Section, work, peer string) Cell { return at(section, work, peer, headlineClients) }
	ping := Cell{Section: SectionLimits, Work: workPing, Peer: peerSocket, Clients: headlineClients}
	return []Promise{
		r.atLeast("durable sets against `state.redis`, AOF always", 1.2,
			headline(SectionState, workSet, ourState), headline(SectionState, workSet, "state.redis")),
		r.atLeast("durable sets against `state.sqlite`", 5,
			headline(SectionState, workSet, ourState), headline(SectionState, workSet, "state.sqlite")),
		r.atLeast("gets against `Ping` on the same socket", 0.8,
			headline(SectionState, workGet, ourState), ping),
		r.atLeast("durable publishes against `pubsub.redis`, AOF always", 1.2,
			headline(SectionPubSub, workPublish, ourPubSub), headline(SectionPubSub, workPublish, "pubsub.redis")),
		r.atLeast("durable publishes against `pubsub.jetstream`, sync always", 5,
			headline(SectionPubSub, workPublish, ourPubSub), headline(SectionPubSub, workPublish, "pubsub.jetstream")),
		r.atLeast("published, delivered and acked, against `pubsub.redis`, AOF always", 1.5,
			headline(SectionPubSub, workDeliver, ourPubSub), headline(SectionPubSub, workDeliver, "pubsub.redis")),
		r.oneSet(at(SectionState, workSet, ourState, 1)),
		r.growth("sets per second with the most keys against an empty file", 0.7,
			func(g *Growth) float64 { return g.Sets }, r.setsWithEvents),
		r.growth("publishes per second with the most events waiting, and as many ids in the window, against none", 0.8,
			func(g *Growth) float64 { return g.Publishes }, (*Growth).contents),
		r.handled(at(SectionPubSub, workSteady, ourPubSub, 1)),
		r.opening(),
	}
}

const notMeasured = "not measured"

func (r *Results) atLeast(what string, ratio float64, ours, theirs Cell) Promise {
	p := Promise{What: what, Allowed: fmt.Sprintf("at least %g ×", ratio), Measured: notMeasured}
	a, ok1 := r.Median(ours)
	b, ok2 := r.Median(theirs)
	if !ok1 || !ok2 {
		return p
	}
	got := a.PerSecond / b.PerSecond
	p.Known, p.Kept = true, got >= ratio
	p.Measured = fmt.Sprintf("%.2f × (%s to %s per second)", got, count(a.PerSecond), count(b.PerSecond))
	return p
}

func (r *Results) oneSet(ours Cell) Promise {
	const most = 1.5
	p := Promise{
		What:     "latency of one client's durable set, against the two syncs of a commit plus one `Ping`",
		Allowed:  fmt.Sprintf("at most %g ×", most),
		Measured: notMeasured,
	}
	set, ok1 := r.Median(ours)
	syncs, ok2 := r.Median(Cell{Section: SectionLimits, Work: workTwoSyncs, Peer: peerDisk, Clients: 1})
	ping, ok3 := r.Median(Cell{Section: SectionLimits, Work: workPing, Peer: peerSocket, Clients: 1})
	if !ok1 || !ok2 || !ok3 {
		return p
	}
	latency, floor := meanLatency(set.PerSecond), meanLatency(syncs.PerSecond)+meanLatency(ping.PerSecond)
	got := float64(latency) / float64(floor)
	p.Known, p.Kept = true, got <= most
	p.Measured = fmt.Sprintf("%.2f × (%s to %s)", got, short(latency), short(floor))
	return p
}

// growth compares the last stage with the first. where says what was in the file.
func (r *Results) growth(what string, ratio float64, of func(*Growth) float64, where func(last *Growth) string) Promise {
	p := Promise{What: what, Allowed: fmt.Sprintf("at least %g ×", ratio), Measured: notMeasured}
	if len(r.Growth) < 2 || r.Growth[0].Stage != (Stage{}) {
		return p
	}
	first, last := &r.Growth[0], &r.Growth[len(r.Growth)-1]
	got := of(last) / of(first)
	p.Known, p.Kept = true, got >= ratio
	p.Measured = fmt.Sprintf("%.2f × (%s to %s per second, %s)", got, count(of(last)), count(of(first)), where(last))
	return p
}

func (g *Growth) contents() string {
	return fmt.Sprintf("%s keys, %s events, %s", count(float64(g.Stage.Keys)), count(float64(g.Stage.Events)), mebibytes(g.FileBytes))
}

// setsWithEvents says what became of sets once the events were in as well.
func (r *Results) setsWithEvents(last *Growth) string {
	before := r.Growth[len(r.Growth)-2].Stage.Events
	return fmt.Sprintf("%s keys, %s events, %s; %.2f × with %s", count(float64(last.Stage.Keys)), count(float64(before)),
		mebibytes(last.KeyFileBytes), last.SetsWithEvents/r.Growth[0].Sets, last.contents())
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
