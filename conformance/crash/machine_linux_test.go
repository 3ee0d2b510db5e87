package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// mostIdle bounds the wait for a change that the power goes out before.
const mostIdle = time.Second

// machine is a dapr-bolt process and the disk that it runs on. To kill it is to cut the power.
type machine struct {
	*harness.Bolt
	disk *Disk
	// folder shows the disk.
	folder  string
	unmount func() error
	random  *rand.Rand
	copies  copies
	// faults makes the disk fail at times, too.
	faults bool
	// cuts counts power cuts, and what they hit.
	cuts, inRecovery, inCompaction, compactions int
	// failures counts writes and syncs that failed.
	failures int

	// beside is what works beside the load until the power goes out.
	beside     sync.WaitGroup
	stopBeside context.CancelFunc

	mu     sync.Mutex
	failed error
}

func (m *machine) backupDir() string { return filepath.Join(m.folder, "backups") }

// within is before how many changes the power goes out: at times in the middle of one commit, at times much later.
func (m *machine) within() int { return []int{4, 40, 400}[m.random.IntN(3)] }

// fail keeps the first error, which Start returns.
func (m *machine) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed == nil {
		m.failed = err
	}
}

func (m *machine) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// Kill lets the power go out soon; half of the time, after what works beside the load has come to its end.
func (m *machine) Kill() {
	if m.random.IntN(2) == 0 {
		m.beside.Wait()
	}
	if m.faults && m.random.IntN(2) == 0 {
		m.failDisk()
	}
	if m.faults && m.random.IntN(2) == 0 {
		m.awaitCut(m.disk.FailAndCut(m.within(), m.errno()), m.Done())
	} else {
		m.awaitCut(m.disk.CutWithin(m.within()), m.Done())
	}
	m.cut()
}

func (m *machine) errno() syscall.Errno {
	return []syscall.Errno{syscall.EIO, syscall.ENOSPC}[m.random.IntN(2)]
}

// failDisk makes the disk fail for a while, after which dapr-bolt must take writes again, or until the power goes out.
func (m *machine) failDisk() {
	m.disk.FailWithin(m.within(), []int{1, 5, 1 << 30}[m.random.IntN(3)], m.errno())
	for patience := time.Now().Add(mostIdle); m.disk.Failed() == 0 && time.Now().Before(patience); {
		time.Sleep(poll)
	}
	time.Sleep(time.Duration(m.random.IntN(50)) * time.Millisecond)
	if m.random.IntN(3) == 0 {
		return
	}
	m.disk.EndFaults()
	if err := m.recovers(); err != nil {
		m.fail(err)
	}
}

// recovers waits until a write succeeds.
func (m *machine) recovers() error {
	store, err := harness.Dial(filepath.Join(m.SocketDir, "bolt.sock"), "store")
	if err != nil {
		return err
	}
	defer store.Close()
	for patience := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := store.Set(context.Background(), "recovers", []byte("yes"))
		if err == nil || isClosed(m.Done()) {
			return nil
		}
		if time.Now().After(patience) {
			return fmt.Errorf("the disk works again, dapr-bolt does not: %w", err)
		}
	}
}

// excuses reports whether an answer may be an error because the disk has failed.
func (m *machine) excuses(err error) bool {
	return err != nil && !harness.Unanswered(err) && m.disk.Failed() > 0
}

// cut cuts the power.
func (m *machine) cut() {
	m.disk.CutNow()
	// The process must be unable to tell of the errors that it gets from here on.
	_ = syscall.Kill(m.PID(), syscall.SIGKILL)
	m.disk.Release()
	m.Bolt.Kill()
	m.restorePower()
}

// awaitCut waits until the power goes out, and cuts it when done is closed or nothing is left that changes the disk.
func (m *machine) awaitCut(out, done <-chan struct{}) {
	idle := time.NewTimer(mostIdle)
	defer idle.Stop()
	select {
	case <-out:
	case <-done:
	case <-idle.C:
	}
	m.disk.CutNow()
}

// restorePower has the disk come back, with what the cut has left on it. No process may be using it.
func (m *machine) restorePower() {
	if m.stopBeside != nil {
		m.stopBeside()
	}
	m.beside.Wait()
	m.cuts++
	m.failures += m.disk.Failed()
	if err := m.unmount(); err != nil {
		m.fail(fmt.Errorf("unmount: %w", err))
		return
	}
	m.disk.Cut()
	var err error
	if m.unmount, err = m.disk.Mount(m.folder); err != nil {
		m.unmount = func() error { return nil }
		m.fail(err)
	}
}

// Start looks at what the cut has left, compacts it at times, lets the power go out during recovery at times, and
// starts the process.
func (m *machine) Start() error {
	if err := m.failure(); err != nil {
		return err
	}
	if err := m.copies.place(m.DataDir, m.backupDir()); err != nil {
		return err
	}
	if m.random.IntN(3) == 0 {
		if err := m.check(); err != nil {
			return err
		}
	}
	if m.random.IntN(4) == 0 {
		if err := m.compact(); err != nil {
			return err
		}
	}
	for m.random.IntN(3) == 0 {
		if err := m.Bolt.Start(); err != nil {
			return err
		}
		m.inRecovery++
		m.Kill()
		if err := m.failure(); err != nil {
			return err
		}
	}
	return m.Bolt.Start()
}

// Restart implements Victim.
func (m *machine) Restart(ctx context.Context) error {
	if err := m.Start(); err != nil {
		return err
	}
	if err := m.WaitReady(ctx); err != nil {
		return err
	}
	ctx, m.stopBeside = context.WithCancel(ctx)
	m.beside.Go(func() {
		if err := m.copies.work(ctx, m.Bolt, m.backupDir()); err != nil && !m.disk.IsOut() && !m.excuses(err) {
			m.fail(err)
		}
	})
	return nil
}

// check reads all pages of the files that must be whole.
func (m *machine) check() error {
	for _, name := range m.copies.whole() {
		if m.disk.find(filepath.Join("data", name+".db")) == nil {
			return fmt.Errorf("%s.db is gone after a power cut", name)
		}
		var report struct{ Problems []string }
		if err := m.Command(context.Background(), &report, "check", "--database", name); err != nil {
			return fmt.Errorf("%s.db is damaged after a power cut: %s: %w", name, strings.Join(report.Problems, "; "), err)
		}
	}
	return nil
}

// compact compacts the file, and lets the power go out meanwhile, or right after it.
func (m *machine) compact() error {
	if m.random.IntN(2) == 0 {
		return m.compactUntil(nil)
	}
	return m.compactUntil(m.disk.CutWithin(m.within()))
}

// compactUntil compacts the file until it is done or the power goes out.
func (m *machine) compactUntil(out <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = m.Command(ctx, nil, "compact")
	}()
	m.awaitCut(out, done)
	select {
	case <-done:
		if err != nil {
			return err
		}
		m.compactions++
	default:
		m.inCompaction++
	}
	cancel()
	m.disk.Release()
	<-done
	m.restorePower()
	return m.failure()
}
