package admin

import (
	"context"
	"slices"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/metrics"
)

const (
	// rateEvery is how often the counters are read, and ratesKept how many of what was read is kept: ten minutes.
	rateEvery = 5 * time.Second
	ratesKept = 120
	// topicRateEvery is how often those of topics are, and topicRatesKept how many: a topic's rate is over the last minute.
	topicRateEvery = 4 * rateEvery
	topicRatesKept = 3
)

// Rates are how much was done in the last minutes, the oldest first.
type Rates struct {
	// Every is how many seconds an entry stands for.
	Every float64 `json:"every"`
	// Those of events and keys are per second.
	Sets      []float64 `json:"sets"`
	Gets      []float64 `json:"gets"`
	Published []float64 `json:"published"`
	Delivered []float64 `json:"delivered"`
	Failed    []float64 `json:"failed"`
	// CommitSeconds is what a commit took on average; 0 where there was none.
	CommitSeconds []float64 `json:"commitSeconds"`
}

// reading is what the counters said.
type reading struct {
	at time.Time
	metrics.Rates
}

// topicCounts are what a topic's counters said.
type topicCounts struct{ published, delivered uint64 }

type topicReading struct {
	at     time.Time
	topics map[topicCursor]topicCounts
	// partial says that there were more topics.
	partial bool
}

// watchRates reads the counters until ctx ends.
func (s *Service) watchRates(ctx context.Context) {
	ticker := s.opts.Clock.NewTicker(rateEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		topics := n%int(topicRateEvery/rateEvery) == 0
		s.readRates(ctx, topics)
		select {
		case <-ticker.Chan():
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) readRates(ctx context.Context, withTopics bool) {
	now := reading{s.opts.Clock.Now(), s.opts.Metrics.Rates()}
	s.ratesMu.Lock()
	s.readings = append(s.readings, now)
	s.readings = s.readings[max(0, len(s.readings)-ratesKept-1):]
	s.ratesMu.Unlock()
	if !withTopics {
		return
	}
	topics := topicReading{at: now.at, topics: map[topicCursor]topicCounts{}}
	for _, b := range s.opts.Databases.BrokersInUse() {
		stats, err := b.Broker.Stats(ctx, "", "", overviewTopics)
		topics.partial = topics.partial || err != nil || len(stats) == overviewTopics
		for i := range stats {
			t := newTopicStats(Bucket{b.Database, b.Bucket}, stats[i])
			topics.topics[t.place()] = t.counts()
		}
	}
	s.ratesMu.Lock()
	s.topicReadings = append(s.topicReadings, topics)
	s.topicReadings = s.topicReadings[max(0, len(s.topicReadings)-topicRatesKept):]
	s.ratesMu.Unlock()
}

// rates are those that were read last.
func (s *Service) rates() Rates {
	s.ratesMu.Lock()
	readings := slices.Clone(s.readings)
	s.ratesMu.Unlock()
	each := func(value func(before, now reading) float64) []float64 {
		out := []float64{}
		for i := 1; i < len(readings); i++ {
			out = append(out, value(readings[i-1], readings[i]))
		}
		return out
	}
	perSecond := func(count func(r reading) uint64) []float64 {
		return each(func(before, now reading) float64 {
			return float64(count(now)-count(before)) / now.at.Sub(before.at).Seconds()
		})
	}
	return Rates{
		Every:     rateEvery.Seconds(),
		Sets:      perSecond(func(r reading) uint64 { return r.Sets }),
		Gets:      perSecond(func(r reading) uint64 { return r.Gets }),
		Published: perSecond(func(r reading) uint64 { return r.Published }),
		Delivered: perSecond(func(r reading) uint64 { return r.Delivered }),
		Failed:    perSecond(func(r reading) uint64 { return r.Failed }),
		CommitSeconds: each(func(before, now reading) float64 {
			return (now.CommitTime - before.CommitTime).Seconds() / float64(max(1, now.Commits-before.Commits))
		}),
	}
}

func (t *TopicStats) place() topicCursor { return topicCursor{t.Database, t.Name, t.Topic} }

func (t *TopicStats) counts() topicCounts {
	c := topicCounts{published: t.Published}
	for i := range t.Groups {
		c.delivered += t.Groups[i].Delivered
	}
	return c
}

// addRates says how much came into a topic and went out of it in the last minute. Counters begin at zero with the process, and
// with the topic.
func (s *Service) addRates(t *TopicStats) {
	s.ratesMu.Lock()
	defer s.ratesMu.Unlock()
	if len(s.topicReadings) == 0 {
		return
	}
	first := s.topicReadings[0]
	before, known := first.topics[t.place()]
	now, seconds := t.counts(), s.opts.Clock.Since(first.at).Seconds()
	// A topic that was removed meanwhile began anew.
	if !known && first.partial || seconds < 1 || now.published < before.published || now.delivered < before.delivered {
		return
	}
	t.RateIn = float64(now.published-before.published) / seconds
	t.RateOut = float64(now.delivered-before.delivered) / seconds
}
