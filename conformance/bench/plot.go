package bench

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"

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

// WritePlot draws throughput against clients, at the promises' size, as SVG.
func (r *Results) WritePlot(out io.Writer) error {
	panels := []panel{
		{SectionState, workSet, "sets per second"},
		{SectionState, workGet, "gets per second"},
		{SectionPubSub, workPublish, "publishes per second"},
		{SectionPubSub, workDeliver, "published to acked per second"},
	}
	rows := (len(panels) + panelColumn - 1) / panelColumn
	grid := make([][]*plot.Plot, rows)
	for i, p := range panels {
		drawn, err := r.plot(p)
		if err != nil {
			return fmt.Errorf("plot %s: %w", p.title, err)
		}
		grid[i/panelColumn] = append(grid[i/panelColumn], drawn)
	}
	canvas := vgsvg.New(panelColumn*panelWidth, vg.Length(rows)*panelHeight)
	dc := draw.New(canvas)
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	gap := 6 * vg.Millimeter
	tiles := draw.Tiles{Rows: rows, Cols: panelColumn, PadX: gap, PadY: gap, PadTop: gap, PadBottom: gap, PadLeft: gap, PadRight: gap}
	for y, line := range plot.Align(grid, tiles, dc) {
		for x, tile := range line {
			grid[y][x].Draw(tile)
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
	for i, peer := range r.peerNames(p) {
		var points plotter.XYs
		for _, clients := range r.clients(p.section) {
			if s, ok := r.Median(Cell{p.section, p.work, peer, clients, headlineSize}); ok {
				points = append(points, plotter.XY{X: float64(clients), Y: s.PerSecond})
				lowest = min(lowest, s.PerSecond)
			}
		}
		if len(points) == 0 {
			continue
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, marks.Color, marks.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		line.Width = vg.Points(1)
		if peer == ourState || peer == ourPubSub {
			line.Width = vg.Points(2.5)
		}
		drawn.Add(line, marks)
		drawn.Legend.Add(peer, line, marks)
	}
	if math.IsInf(lowest, 1) {
		return nil, errors.New("nothing of it was measured")
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

func (r *Results) peerNames(p panel) []string {
	var names []string
	seen := map[string]bool{}
	for _, c := range r.cells(p.section) {
		if c.Work == p.work && c.Size == headlineSize && !seen[c.Peer] {
			seen[c.Peer] = true
			names = append(names, c.Peer)
		}
	}
	return names
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
