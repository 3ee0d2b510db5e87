package harness

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

const (
	terminalPeriod = time.Second
	plainPeriod    = 15 * time.Second
	quietPeriod    = 2 * time.Second // what takes less time is not worth a line
)

// meter shows how far a build or a download has come: on a terminal one line that is
// written over, elsewhere a line now and then.
type meter struct {
	what     string        // as in "building daprd 1.18.2"
	note     string        // told once, when it turns out to take a while; may be empty
	state    func() string // how far it is; may be empty
	out      io.Writer
	terminal bool
	started  time.Time
	done     chan struct{}
	stopped  sync.WaitGroup
	shown    bool
}

// newMeter begins to show. The caller must stop it.
func newMeter(what, note string, out io.Writer, state func() string) *meter {
	m := &meter{what: what, note: note, state: state, out: out, started: time.Now(), done: make(chan struct{})}
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

func (m *meter) show() {
	if !m.shown && m.note != "" {
		_, _ = fmt.Fprintln(m.out, m.note)
	}
	m.shown = true
	text := fmt.Sprintf("%s: %s", m.what, m.elapsed())
	if state := m.state(); state != "" {
		text += ", " + state
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
	how := "done in"
	if err != nil {
		how = "failed after"
	}
	_, _ = fmt.Fprintf(m.out, "%s: %s %s\n", m.what, how, m.elapsed())
}
