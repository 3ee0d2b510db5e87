package crash

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Report is what a run has seen.
type Report struct {
	// Kills counts the SIGKILLs, KillsAtStart those of them that came before the process was ready.
	Kills, KillsAtStart int
	Duration            time.Duration
	// Checks counts how often the file was read page by page, between kills and at the end.
	Checks int

	// Writes counts acknowledged sets, deletes and transactions, Keys what they were about, Refused the calls that were
	// rightly refused for their ETag.
	Writes, Keys, Refused int
	// Accepted counts events that were acknowledged, Duplicates the publishes of an event that was accepted before,
	// Deliveries what reached consumers, Dead the dead letters.
	Accepted, Duplicates, Deliveries, Dead int
	// Unanswered counts calls that a kill left without an answer.
	Unanswered int

	// Broken counts broken promises; a promise that is not in it was kept. Examples says how some were broken.
	Broken   map[Promise]int
	Examples []string
}

// Print writes the report as a table.
func (r *Report) Print(out io.Writer) error {
	var failed error
	row := func(what string, count int) {
		_, err := fmt.Fprintf(out, "%9d  %s\n", count, what)
		failed = errors.Join(failed, err)
	}
	row(fmt.Sprintf("SIGKILLs, %d of them while it started, in %s", r.KillsAtStart, r.Duration.Round(time.Second)), r.Kills)
	row("calls left unanswered by them", r.Unanswered)
	row(fmt.Sprintf("writes acknowledged, to %d keys", r.Keys), r.Writes)
	row("writes refused for their ETag", r.Refused)
	row("events accepted", r.Accepted)
	row("publishes of an event that was accepted before", r.Duplicates)
	row("deliveries", r.Deliveries)
	row("dead letters", r.Dead)
	row("checks of every page of the file", r.Checks)
	for _, p := range promises {
		row(string(p), r.Broken[p])
	}
	for _, example := range r.Examples {
		_, err := fmt.Fprintln(out, "  ", example)
		failed = errors.Join(failed, err)
	}
	return failed
}
