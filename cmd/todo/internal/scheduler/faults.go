package scheduler

import (
	"fmt"
	"strings"
	"sync"
)

// Faults is a fault injection for demonstrations: it makes the handler of task-created fail for some todos, as
// a defect in it would, until it is told otherwise.
type Faults struct {
	mu   sync.Mutex
	word string
}

// FailTitlesContaining makes todos fail whose title contains word, whatever its case; the empty word ends that.
func (f *Faults) FailTitlesContaining(word string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.word = word
}

// Word returns the word in force.
func (f *Faults) Word() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.word
}

func (f *Faults) check(title string) error {
	word := f.Word()
	if word != "" && strings.Contains(strings.ToLower(title), strings.ToLower(word)) {
		return fmt.Errorf("injected fault: title %q contains %q", title, word)
	}
	return nil
}
