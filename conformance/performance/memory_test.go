package performance_test

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// memory watches what a process has resident, in bytes.
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

// sample returns what is resident now.
func (m *memory) sample() int64 {
	now := m.field("VmRSS:")
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

// field reads a line of /proc/PID/status that counts kB.
func (m *memory) field(name string) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", m.pid))
	if err != nil {
		m.t.Errorf("the process is gone: %v", err)
		return 0
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
			var kilobytes int64
			_, err := fmt.Sscan(rest, &kilobytes)
			require.NoError(m.t, err)
			return kilobytes << 10
		}
	}
	m.t.Errorf("/proc/%d/status has no %s", m.pid, name)
	return 0
}
