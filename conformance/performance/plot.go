package performance

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// panel is one of the small plots.
type panel struct {
	section Section
	work    string
	title   string
}

const (
	panelWidth  = 12 * vg.Centimeter
	panelHeight = 8 * vg.Centimeter
	panelColumn = 2
)

// panels are the small plots of what was measured.
func (r *Results) panels() []panel {
	return slices.DeleteFunc([]panel{
		{SectionState, workSet, "sets per second"},
		{SectionState, workGet, "gets per second"},
		{SectionPubSub, workPublish, "publishes per second"},
		{SectionPubSub, workDeliver, "published to acked per second"},
	}, func(p panel) bool { return len(r.lines(p)) == 0 })
}

// Plots says whether there is anything that WritePlot would draw.
func (r *Results) Plots() bool { return len(r.panels()) > 0 }

// WritePlot draws throughput against clients, at the promises' size, as SVG.
func (r *Results) WritePlot(out io.Writer) error {
	panels := r.panels()
	rows := (len(panels) + panelColumn - 1) / panelColumn
	grid := make([][]*plot.Plot, rows)
	for i := range grid {
		grid[i] = make([]*plot.Plot, panelColumn)
	}
	for i, p := range panels {
		drawn, err := r.plot(p)
		if err != nil {
			return fmt.Errorf("plot %s: %w", p.title, err)
		}
		grid[i/panelColumn][i%panelColumn] = drawn
	}
	canvas := vgsvg.New(panelColumn*panelWidth, vg.Length(rows)*panelHeight)
	dc := draw.New(canvas)
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	gap := 6 * vg.Millimeter
	tiles := draw.Tiles{Rows: rows, Cols: panelColumn, PadX: gap, PadY: gap, PadTop: gap, PadBottom: gap, PadLeft: gap, PadRight: gap}
	for y, line := range plot.Align(grid, tiles, dc) {
		for x, tile := range line {
			if drawn := grid[y][x]; drawn != nil {
				drawn.Draw(tile)
			}
		}
	}
	_, err := canvas.WriteTo(out)
	return err
}

func (r *Results) plot(p panel) (*plot.Plot, error) {
	drawn := plot.New()
	drawn.Title.Text = fmt.Sprintf("%s, %s", p.title, byteSize(headlineSize))
	drawn.X.Label.Text = "clients"
	drawn.X.Scale, drawn.Y.Scale = plot.LogScale{}, plot.LogScale{}
	drawn.X.Tick.Marker = clientTicks(r.clients(p.section))
	drawn.Y.Tick.Marker = rateTicks{}
	drawn.Legend.TextStyle.Font.Size = vg.Points(8)
	drawn.Add(plotter.NewGrid())
	lowest := math.Inf(1)
	for i, l := range r.lines(p) {
		var points plotter.XYs
		for _, clients := range r.clients(p.section) {
			if s, ok := r.Median(Cell{l.section, p.work, l.peer, clients, headlineSize}); ok {
				points = append(points, plotter.XY{X: float64(clients), Y: s.PerSecond})
				lowest = min(lowest, s.PerSecond)
			}
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, marks.Color, marks.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		line.Width = vg.Points(1)
		switch {
		case l.peer == ourState || l.peer == ourPubSub:
			line.Width = vg.Points(2.5)
		case l.section == SectionLimits:
			line.Dashes = plotutil.Dashes(1)
		}
		drawn.Add(line, marks)
		drawn.Legend.Add(l.peer, line, marks)
	}
	// Room below the lines for the legend.
	drawn.Y.Min = lowest / 8
	return drawn, nil
}

func (r *Results) clients(section Section) []int {
	var clients []int
	for _, c := range r.cells(section) {
		if c.Work != workSteady && (len(clients) == 0 || c.Clients > clients[len(clients)-1]) {
			clients = append(clients, c.Clients)
		}
	}
	return clients
}

// line is who is drawn in a panel.
type line struct {
	section Section
	peer    string
}

// lines are the panel's peers that were measured, and the bare servers beside them.
func (r *Results) lines(p panel) []line {
	var lines []line
	for _, c := range append(r.cells(p.section), r.cells(SectionLimits)...) {
		l := line{c.Section, c.Peer}
		if _, ok := r.Median(c); ok && c.Work == p.work && c.Size == headlineSize && !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
	}
	if !slices.ContainsFunc(lines, func(l line) bool { return l.section == p.section }) {
		return nil
	}
	return lines
}

// clientTicks marks the numbers of clients that were measured.
type clientTicks []int

// Ticks implements plot.Ticker.
func (t clientTicks) Ticks(_, _ float64) []plot.Tick {
	ticks := make([]plot.Tick, len(t))
	for i, n := range t {
		ticks[i] = plot.Tick{Value: float64(n), Label: fmt.Sprint(n)}
	}
	return ticks
}

// rateTicks marks 1, 2 and 5 of each power of ten.
type rateTicks struct{}

// Ticks implements plot.Ticker.
func (rateTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for power := math.Pow(10, math.Floor(math.Log10(low))); power <= high; power *= 10 {
		for _, step := range []float64{1, 2, 5} {
			if v := power * step; v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: count(v)})
			}
		}
	}
	return ticks
}
