package harness

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	keptLines      = 40
	terminalPeriod = time.Second
	plainPeriod    = 15 * time.Second
	quietPeriod    = 2 * time.Second // a build shorter than this is not worth a line
)

// meter shows how far a `go build -v` has come: on a terminal one line that is
// written over, elsewhere a line now and then. It is the build's output writer.
type meter struct {
	what     string
	note     string
	out      io.Writer
	terminal bool
	started  time.Time
	done     chan struct{}
	stopped  sync.WaitGroup

	mu       sync.Mutex
	partial  []byte
	lines    []string // the last keptLines, for the error message
	packages int
	shown    bool
}

func newMeter(what, note string, out io.Writer) *meter {
	m := &meter{what: what, note: note, out: out, started: time.Now(), done: make(chan struct{})}
	if out == nil {
		m.out = io.Discard
	}
	if file, ok := out.(*os.File); ok {
		m.terminal = term.IsTerminal(int(file.Fd()))
	}
	m.stopped.Go(m.run)
	return m
}

func (m *meter) run() {
	period := plainPeriod
	if m.terminal {
		period = terminalPeriod
	}
	first := time.NewTimer(quietPeriod)
	defer first.Stop()
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-m.done:
			return
		case <-first.C:
			m.show()
		case <-ticker.C:
			if time.Since(m.started) > quietPeriod {
				m.show()
			}
		}
	}
}

// Write takes the build's output: names of packages, downloads, errors.
func (m *meter) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.partial = eachLine(append(m.partial, p...), func(line []byte) {
		if !bytes.HasPrefix(line, []byte("go: ")) {
			m.packages++
		}
		m.lines = append(m.lines, string(line))
		if len(m.lines) > keptLines {
			m.lines = m.lines[1:]
		}
	})
	return len(p), nil
}

func (m *meter) show() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.shown && m.note != "" {
		_, _ = fmt.Fprintln(m.out, m.note)
	}
	m.shown = true
	text := fmt.Sprintf("building %s: %s", m.what, m.elapsed())
	if len(m.lines) > 0 {
		text += fmt.Sprintf(", %d packages, %s", m.packages, m.lines[len(m.lines)-1])
	}
	if m.terminal {
		width := 80
		if columns, _, err := term.GetSize(int(m.out.(*os.File).Fd())); err == nil && columns > 1 {
			width = columns
		}
		_, _ = fmt.Fprintf(m.out, "\r\x1b[K%.*s", width-1, text)
		return
	}
	_, _ = fmt.Fprintln(m.out, text)
}

func (m *meter) elapsed() time.Duration { return time.Since(m.started).Round(time.Second) }

// stop ends the display with how it went and waits for it.
func (m *meter) stop(err error) {
	close(m.done)
	m.stopped.Wait()
	if !m.shown {
		return
	}
	if m.terminal {
		_, _ = io.WriteString(m.out, "\r\x1b[K")
	}
	verb := "built"
	if err != nil {
		verb = "failed to build"
	}
	_, _ = fmt.Fprintf(m.out, "%s %s in %s\n", verb, m.what, m.elapsed())
}

// tail is the end of what the build said.
func (m *meter) tail() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(append(m.lines, string(m.partial)), "\n")
}
