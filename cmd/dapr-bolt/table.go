package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// cell is one cell of a table.
type cell struct {
	text string
	// short is what stands in a terminal that is too narrow for text; empty: text.
	short string
	// cut says that the end may be cut off where even that is too long.
	cut bool
}

// size is a number of bytes in a table.
type size int64

// cell is what a value looks like in a table: text from outside in one line, without what a terminal would obey, and of a time
// how long ago it was and, where there is room, the time.
func (c *cli) cell(value any) cell {
	switch v := value.(type) {
	case string:
		return cell{text: cmp.Or(strings.Join(strings.Fields(harmless(v)), " "), "-"), cut: true}
	case cell:
		return v
	case size:
		return cell{text: admin.ByteSize(v)}
	case *time.Time:
		if v == nil {
			return cell{text: "-"}
		}
		return c.cell(*v)
	case time.Time:
		if v.IsZero() {
			return cell{text: "-"}
		}
		return cell{text: c.when(v), short: age(v, c.clock.Now())}
	}
	return cell{text: fmt.Sprint(value)}
}

// list prints items as a table, as printPage does.
func list[T any](c *cli, header string, items []T, none, next string, row func(item *T) []any) error {
	rows := make([][]any, len(items))
	for i := range items {
		rows[i] = row(&items[i])
	}
	return c.printPage(header, rows, none, next)
}

// printPage prints a table, or that it is empty, and how to go on: next are flags that list the next page, if there is one.
func (c *cli) printPage(header string, rows [][]any, none, next string) error {
	if len(rows) == 0 && next == "" {
		_, err := fmt.Fprintln(c.errOut, none)
		return err
	}
	if len(rows) > 0 {
		if err := c.printTable(header, rows); err != nil {
			return err
		}
	}
	if next != "" {
		fmt.Fprintf(c.errOut, "there may be more: %s lists the next page\n", next)
	}
	return nil
}

// leastCut is what is left at least of a cell that is cut.
const leastCut = 6

// printTable aligns rows under their titles, between which two spaces stand. On a terminal it takes the width that there is:
// times are left out beside ages, then texts are cut, the longest first, and where that is not enough each row becomes lines of
// its own.
func (c *cli) printTable(titles string, values [][]any) error {
	header, limit := strings.Split(titles, "  "), c.width()
	rows := make([][]cell, len(values))
	for i := range values {
		for _, value := range values[i] {
			rows[i] = append(rows[i], c.cell(value))
		}
	}
	widths, total := tableWidths(header, rows)
	if limit > 0 && total > limit {
		for _, row := range rows {
			for i := range row {
				if row[i].short != "" {
					row[i].text = row[i].short
				}
			}
		}
		widths, total = tableWidths(header, rows)
		if !shrink(widths, rows, total-limit) {
			return c.printRecords(header, rows, limit)
		}
	}
	var b strings.Builder
	line := func(text func(column int) string) {
		var padded strings.Builder
		for i := range header {
			fmt.Fprintf(&padded, "%-*s  ", widths[i], truncate(text(i), widths[i]))
		}
		fmt.Fprintln(&b, strings.TrimRight(padded.String(), " "))
	}
	line(func(i int) string { return header[i] })
	for _, row := range rows {
		line(func(i int) string { return row[i].text })
	}
	return c.printf("%s", b.String())
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
	return c.printf("%s", b.String())
}

// tableWidths are those of the columns, and of the whole table.
func tableWidths(header []string, rows [][]cell) (widths []int, total int) {
	widths, total = make([]int, len(header)), 2*(len(header)-1)
	for i, name := range header {
		widths[i] = utf8.RuneCountInString(name)
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
		total += widths[i]
	}
	return widths, total
}

// shrink makes columns whose cells may be cut narrower, by so much in all, and reports whether it could.
func shrink(widths []int, rows [][]cell, by int) bool {
	for ; by > 0; by-- {
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
