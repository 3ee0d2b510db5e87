package harness

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// lineWriter lets several processes share one output without mixing their lines.
type lineWriter struct {
	mu  sync.Mutex
	out io.Writer
}

// nameWidth aligns the lines of the processes that `make run` starts.
const nameWidth = 20

func (w *lineWriter) prefixer(name string) *prefixer {
	return &prefixer{lines: w, prefix: fmt.Sprintf("%-*s | ", nameWidth, name)}
}

// prefixer writes whole lines after a prefix.
type prefixer struct {
	lines   *lineWriter
	prefix  string
	mu      sync.Mutex
	partial []byte
}

func (p *prefixer) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial = eachLine(append(p.partial, data...), p.emit)
	return len(data), nil
}

// eachLine hands over every whole line and returns what comes after the last.
func eachLine(text []byte, take func(line []byte)) (rest []byte) {
	for {
		line, rest, found := bytes.Cut(text, []byte("\n"))
		if !found {
			return text
		}
		take(line)
		text = rest
	}
}

// flush writes what has no end of line yet.
func (p *prefixer) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.partial) > 0 {
		p.emit(p.partial)
		p.partial = nil
	}
}

func (p *prefixer) emit(line []byte) {
	p.lines.mu.Lock()
	defer p.lines.mu.Unlock()
	// A terminal that went away must not end the process that prints to it.
	_, _ = fmt.Fprintf(p.lines.out, "%s%s\n", p.prefix, line)
}
