package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// cell is one cell of a table.
type cell struct {
	text string
	// short is what stands in a terminal that is too narrow for text; empty: text.
	short string
	// cut says that the end may be cut off where even that is too long.
	cut bool
}

// textCell makes text from outside fit for a table: one line, and nothing that a terminal would obey.
func textCell(text string) cell {
	text = strings.Join(strings.Fields(harmless(text)), " ")
	if text == "" {
		text = "-"
	}
	return cell{text: text, cut: true}
}

func numberCell[N int | uint64](n N) cell { return cell{text: fmt.Sprint(n)} }

// timeCell shows how long ago a time was, and where there is room the time; the zero time is nobody's.
func (c *cli) timeCell(t time.Time) cell {
	if t.IsZero() {
		return cell{text: "-"}
	}
	return cell{text: c.when(t), short: age(t, c.clock.Now())}
}

// leastCut is what is left at least of a cell that is cut.
const leastCut = 6

// printTable aligns rows under their header. On a terminal it takes the width that there is: times are left out beside
// ages, then texts are cut, the longest first, and where that is not enough each row becomes lines of its own.
func (c *cli) printTable(header []string, rows [][]cell) error {
	limit := c.width()
	widths := tableWidths(header, rows)
	if limit > 0 && tableWidth(widths) > limit {
		for _, row := range rows {
			for i := range row {
				if row[i].short != "" {
					row[i].text = row[i].short
				}
			}
		}
		widths = tableWidths(header, rows)
		if !shrink(widths, rows, limit) {
			return c.printRecords(header, rows, limit)
		}
	}
	var b strings.Builder
	line := func(texts func(i int) string) {
		var padded strings.Builder
		for i := range header {
			fmt.Fprintf(&padded, "%-*s  ", widths[i], truncate(texts(i), widths[i]))
		}
		fmt.Fprintln(&b, strings.TrimRight(padded.String(), " "))
	}
	line(func(i int) string { return header[i] })
	for _, row := range rows {
		line(func(i int) string { return row[i].text })
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

// printRecords prints each row as lines of a name and a value, with an empty line between rows.
func (c *cli) printRecords(header []string, rows [][]cell, limit int) error {
	names := 0
	for _, name := range header {
		names = max(names, len(name))
	}
	var b strings.Builder
	for n, row := range rows {
		if n > 0 {
			fmt.Fprintln(&b)
		}
		for i, cell := range row {
			fmt.Fprintln(&b, truncate(fmt.Sprintf("%-*s %s", names, header[i], cell.text), limit))
		}
	}
	_, err := io.WriteString(c.out, b.String())
	return err
}

func tableWidths(header []string, rows [][]cell) []int {
	widths := make([]int, len(header))
	for i, name := range header {
		widths[i] = utf8.RuneCountInString(name)
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	return widths
}

func tableWidth(widths []int) int {
	total := 2 * (len(widths) - 1)
	for _, width := range widths {
		total += width
	}
	return total
}

// shrink makes columns whose cells may be cut narrower until the table fits, and reports whether it does.
func shrink(widths []int, rows [][]cell, limit int) bool {
	for over := tableWidth(widths) - limit; over > 0; over-- {
		widest := -1
		for i, width := range widths {
			if rows[0][i].cut && width > leastCut && (widest < 0 || width > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		widths[widest]--
	}
	return true
}

func truncate(text string, width int) string {
	if runes := []rune(text); len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return text
}

// harmless replaces what a terminal would obey; line breaks and tabs stay.
func harmless(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// when shows a time with its age; nothing for the zero time, which nobody knows.
func (c *cli) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return age(t, c.clock.Now()) + " (" + t.UTC().Format(time.RFC3339) + ")"
}

// age says how long ago a time was, or when it comes, in its largest unit.
func age(t, now time.Time) string {
	d := now.Sub(t)
	for _, unit := range []struct {
		length, below time.Duration
		name          string
	}{{time.Second, time.Minute, "s"}, {time.Minute, time.Hour, "m"}, {time.Hour, 48 * time.Hour, "h"}, {24 * time.Hour, 1<<63 - 1, "d"}} {
		switch {
		case d.Abs() < time.Second:
			return "now"
		case d.Abs() < unit.below && d < 0:
			return "in " + strconv.Itoa(int(-d/unit.length)) + unit.name
		case d.Abs() < unit.below:
			return strconv.Itoa(int(d/unit.length)) + unit.name + " ago"
		}
	}
	return "long ago"
}

// byteSize is for people.
func byteSize(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefixes := float64(n)/unit, "KMGTPE"
	for value >= unit && len(prefixes) > 1 {
		value, prefixes = value/unit, prefixes[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, prefixes[0])
}
