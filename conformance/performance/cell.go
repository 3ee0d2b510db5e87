package performance

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Cell names one thing that is measured.
type Cell struct {
	// Section is the part of the run, Work what the clients do, Peer who is measured.
	Section Section `json:"section"`
	Work    string  `json:"work"`
	Peer    string  `json:"peer"`
	// Clients call at the same time, each again as soon as its last call returned.
	Clients int `json:"clients"`
	// Size is that of a value or an event, in bytes.
	Size int `json:"size"`
}

func (c Cell) String() string {
	return fmt.Sprintf("%s: %s, %d clients, %s, %s", c.Section, c.Work, c.Clients, byteSize(c.Size), c.Peer)
}

// Sample is one measurement of a Cell.
type Sample struct {
	Cell  Cell `json:"cell"`
	Round int  `json:"round"`
	// PerSecond counts what was done, P50 and P99 are latencies of single calls, or of deliveries.
	PerSecond float64       `json:"perSecond"`
	P50       time.Duration `json:"p50"`
	P99       time.Duration `json:"p99"`
	// Errors counts the calls that failed; they are in no other number. Error is the first one's text, or says why there
	// is no measurement at all.
	Errors int    `json:"errors,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Median returns the medians of a cell's samples over the rounds, and false if it was not measured.
func (r *Results) Median(cell Cell) (Sample, bool) {
	m := Sample{Cell: cell}
	var rates []float64
	var p50, p99 []time.Duration
	for i := range r.Samples {
		s := &r.Samples[i]
		if s.Cell != cell {
			continue
		}
		m.Errors += s.Errors
		if m.Error == "" {
			m.Error = s.Error
		}
		if s.PerSecond > 0 {
			rates, p50, p99 = append(rates, s.PerSecond), append(p50, s.P50), append(p99, s.P99)
		}
	}
	if len(rates) == 0 {
		return m, false
	}
	m.PerSecond, m.P50, m.P99 = median(rates), median(p50), median(p99)
	return m, true
}

// rates are a cell's, per second, by the round.
func (r *Results) rates(cell Cell) map[int]float64 {
	rates := map[int]float64{}
	for i := range r.Samples {
		if s := &r.Samples[i]; s.Cell == cell && s.PerSecond > 0 {
			rates[s.Round] = s.PerSecond
		}
	}
	return rates
}

// ratios are those of two cells' rates in the same rounds, ascending.
func (r *Results) ratios(a, b Cell) []float64 {
	above, below := r.rates(a), r.rates(b)
	var ratios []float64
	for round, rate := range above {
		if below[round] > 0 {
			ratios = append(ratios, rate/below[round])
		}
	}
	slices.Sort(ratios)
	return ratios
}

func median[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[len(values)/2]
}

func byteSize(n int) string {
	if n >= 1<<10 && n%(1<<10) == 0 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d B", n)
}
