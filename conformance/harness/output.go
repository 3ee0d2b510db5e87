package harness

import (
	"bytes"
	"sync"
)

// lineWriter hands on every whole line of what is written to it.
type lineWriter struct {
	take    func(line []byte)
	mu      sync.Mutex
	partial []byte
}

func (w *lineWriter) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.partial = append(w.partial, data...)
	for {
		line, rest, found := bytes.Cut(w.partial, []byte("\n"))
		if !found {
			return len(data), nil
		}
		w.take(line)
		w.partial = rest
	}
}

// flush hands on what has no end of line yet.
func (w *lineWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.partial) > 0 {
		w.take(w.partial)
		w.partial = nil
	}
}
