package console

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The room of a sparkline, in units of its own.
const (
	sparkWidth  = 160
	sparkHeight = 32
)

// sparkline is a number over the last minutes.
type sparkline struct {
	Name string
	// Now and Most are the last value and the largest, with their unit; empty: there is none yet.
	Now, Most string
	// Points are the line's, for SVG.
	Points string
	// Span is how long the line is.
	Span string
}

// newSparkline draws values, the oldest first, each of which stands for so many seconds. The newest is at the right.
func newSparkline(name string, values []float64, seconds float64, show func(float64) string) sparkline {
	s := sparkline{Name: name}
	if len(values) == 0 {
		return s
	}
	most := slices.Max(values)
	last := values[len(values)-1]
	s.Now, s.Most = show(last), show(most)
	s.Span = span(time.Duration(float64(len(values)) * seconds * float64(time.Second)))
	if len(values) == 1 {
		values = []float64{last, last} // a line has two ends
	}
	step := float64(sparkWidth) / float64(len(values)-1)
	points := make([]string, len(values))
	for i, value := range values {
		height := 0.0
		if most > 0 {
			height = value / most
		}
		points[i] = fmt.Sprintf("%.1f,%.1f", float64(i)*step, 1+(sparkHeight-2)*(1-height))
	}
	s.Points = strings.Join(points, " ")
	return s
}

// perSecond is a rate, with a decimal where that says more.
func perSecond(rate float64) string {
	switch {
	case rate == 0:
		return "0/s"
	case rate < 0.1:
		return "<0.1/s"
	case rate < 10:
		return fmt.Sprintf("%.1f/s", rate)
	}
	return number(int(rate+0.5)) + "/s"
}

// milliseconds is a short time in seconds; 0: there was nothing to measure.
func milliseconds(seconds float64) string {
	if seconds == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f ms", seconds*1000)
}
