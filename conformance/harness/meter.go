package harness

import (
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	meterPeriod = 10 * time.Second
	quietPeriod = 2 * time.Second // what takes less time is not worth a line
)

// meter tells now and then how far a build or a download has come.
type meter struct {
	what    string        // as in "building daprd 1.18.2"
	note    string        // told once, when it turns out to take a while; may be empty
	state   func() string // how far it is; may be empty
	out     io.Writer
	started time.Time
	done    chan struct{}
	stopped sync.WaitGroup
	shown   bool
}

// newMeter begins to show. The caller must stop it.
func newMeter(what, note string, out io.Writer, state func() string) *meter {
	m := &meter{what: what, note: note, state: state, out: out, started: time.Now(), done: make(chan struct{})}
	m.stopped.Go(m.run)
	return m
}

func (m *meter) run() {
	for wait := quietPeriod; ; wait = meterPeriod {
		select {
		case <-m.done:
			return
		case <-time.After(wait):
			m.show()
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
	_, _ = fmt.Fprintln(m.out, text)
}

func (m *meter) elapsed() time.Duration { return time.Since(m.started).Round(time.Second) }

// stop ends the display with how it went and waits for it.
func (m *meter) stop(err error) {
	close(m.done)
	m.stopped.Wait()
	how := "done in"
	if err != nil {
		how = "failed after"
	}
	if m.shown {
		_, _ = fmt.Fprintf(m.out, "%s: %s %s\n", m.what, how, m.elapsed())
	}
}
