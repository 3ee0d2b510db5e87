package performance_test

import (
	"sync"
	"testing"
	"time"

	"github.com/prometheus/procfs"
)

// memory watches what a process has in memory for itself, in bytes: the pages of its mapped files are the system's cache.
type memory struct {
	t    *testing.T
	pid  int
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	peak int64
}

const sampleEvery = 20 * time.Millisecond

func watchMemory(t *testing.T, pid int) *memory {
	m := &memory{t: t, pid: pid, stop: make(chan struct{})}
	m.done.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.sample()
			case <-m.stop:
				return
			}
		}
	})
	return m
}

// sample returns what it is now.
func (m *memory) sample() int64 {
	now := int64(m.status().RssAnon)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peak = max(m.peak, now)
	return now
}

// end returns the largest sample.
func (m *memory) end() int64 {
	m.sample()
	close(m.stop)
	m.done.Wait()
	return m.peak
}

// status is zero when the process is gone, which fails the test.
func (m *memory) status() (status procfs.ProcStatus) {
	p, err := procfs.NewProc(m.pid)
	if err == nil {
		status, err = p.NewStatus()
	}
	if err != nil {
		m.t.Errorf("the process is gone: %v", err)
	}
	return status
}
