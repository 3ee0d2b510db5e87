package sidecars

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/jonboulle/clockwork"
	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

var (
	anonymous = access.Process{}
	outside   = func(handle uint64) access.Process { return access.Process{Handle: handle} }
)

func open(t require.TestingT, dir string, log *bytes.Buffer) *Registry {
	if log == nil {
		log = &bytes.Buffer{}
	}
	r, err := Open(Options{Dir: dir, Clock: clockwork.NewFakeClock(), Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	return r
}

func bucket(name string) map[string]string { return map[string]string{"bucket": name} }

// process starts one that ends with the test, or when the function is called that it returns.
func process(t *testing.T) (p access.Process, end func()) {
	t.Helper()
	sleeper := exec.CommandContext(t.Context(), "sleep", "300")
	require.NoError(t, sleeper.Start())
	running, err := procfs.NewProc(sleeper.Process.Pid)
	require.NoError(t, err)
	stat, err := running.Stat()
	require.NoError(t, err)
	p.PID, p.Start = sleeper.Process.Pid, stat.Starttime
	require.False(t, p.Ended())
	end = func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}
	t.Cleanup(end)
	return p, end
}

// A sidecar is known by its process, or else is the only one with its component. Whatever happens, what is found for it
// is what it said last.
func TestWhatASidecarSaidLastIsFound(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		_ = os.Remove(filepath.Join(dir, fileName))
		type sidecar struct {
			process   access.Process
			component string
			said      string
			session   *Session
		}
		var all []*sidecar
		for i := range 4 {
			all = append(all, &sidecar{process: outside(uint64(i + 1)), component: "shared"})
		}
		all = append(all, &sidecar{component: "alone"})
		r := open(t, dir, nil)
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			s := rapid.SampledFrom(all).Draw(t, "sidecar")
			switch step := rapid.SampledFrom([]string{"init", "late close", "call", "idle", "restart"}).Draw(t, "step"); step {
			case "init", "late close":
				before := s.session
				if before != nil && step == "init" {
					before.Close()
				}
				s.session, s.said = r.Connect(s.process), fmt.Sprint(i)
				s.session.Initialized(State, s.component, bucket(s.said))
				if before != nil && step == "late close" {
					before.Close()
				}
			case "call":
				if s.said == "" {
					continue
				}
				if s.session == nil {
					s.session = r.Connect(s.process)
				}
				require.Equal(t, []map[string]string{bucket(s.said)}, s.session.Find(State, s.component))
				s.session.Adopt(State, s.component)
			case "idle":
				if s.session != nil {
					s.session.Close()
					s.session = nil
				}
			case "restart":
				r = open(t, dir, nil)
				for _, s := range all {
					s.session = nil
				}
			}
		}
	})
}

// Two that cannot be told apart are found to have said different things, for as long as both have connections.
func TestSidecarsThatCannotBeToldApart(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, nil)
	a, b := r.Connect(anonymous), r.Connect(anonymous)
	a.Initialized(State, "store", bucket("a"))
	b.Initialized(State, "store", bucket("b"))
	require.Equal(t, []map[string]string{bucket("a")}, a.Find(State, "store"))
	require.Equal(t, []map[string]string{bucket("b")}, b.Find(State, "store"))
	require.Empty(t, r.Connect(anonymous).Find(State, "store"), "another one that never called Init")
	r = open(t, dir, nil)
	require.Equal(t, []map[string]string{bucket("b"), bucket("a")}, r.Connect(anonymous).Find(State, "store"))
	require.Empty(t, r.Connect(outside(7)).Find(State, "store"), "one that can be told, and never called Init")
}

func TestAForgottenSidecarIsNotTakenForAnother(t *testing.T) {
	ended, end := process(t)
	r := open(t, t.TempDir(), nil)
	r.Connect(ended).Initialized(State, "store", bucket("ended"))
	connected := r.Connect(outside(1))
	connected.Initialized(State, "store", bucket("connected"))
	end()
	for i := range uint64(maxInstances + 10) {
		s := r.Connect(outside(100 + i))
		s.Initialized(State, "store", bucket(fmt.Sprint(i)))
		s.Close()
	}
	require.Len(t, r.instances, maxInstances)
	require.Empty(t, r.Connect(ended).Find(State, "store"))
	require.Empty(t, r.Connect(outside(100)).Find(State, "store"), "the oldest without a connection")
	require.Len(t, connected.Find(State, "store"), 1)
	require.Len(t, r.Connect(outside(100+maxInstances)).Find(State, "store"), 1)
}

func TestMissingSubscriptions(t *testing.T) {
	dir := t.TempDir()
	sidecar, end := process(t)
	app := map[string]string{"consumerID": "app"}
	r := open(t, dir, nil)
	require.Empty(t, r.Missing())
	s := r.Connect(sidecar)
	s.Initialized(PubSub, "bus", app)
	s.StreamOpened("bus")
	s.StreamOpened("bus")
	s.StreamOpened("bus")()
	require.Empty(t, r.Missing())

	r = open(t, dir, nil)
	require.Equal(t, []string{"bus"}, r.Missing())
	another := r.Connect(outside(1))
	another.Initialized(PubSub, "bus", app)
	another.StreamOpened("bus")
	another.StreamOpened("bus")
	require.Equal(t, []string{"bus"}, r.Missing(), "another sidecar's are not the missing ones")

	r = open(t, dir, nil)
	s = r.Connect(sidecar)
	s.StreamOpened("bus")
	require.Equal(t, []string{"bus"}, r.Missing(), "one of two is back")
	s.StreamOpened("bus")
	changed := r.Changed()
	r.Connect(outside(2)).Initialized(PubSub, "bus", app)
	<-changed
	require.Empty(t, r.Missing(), "whether the one outside has ended cannot be told, and its app has another sidecar")

	r = open(t, dir, nil)
	require.Equal(t, []string{"bus"}, r.Missing())
	s = r.Connect(sidecar)
	s.Initialized(PubSub, "bus", app)
	require.Empty(t, r.Missing(), "a sidecar subscribes by itself after Init")
	closed := s.StreamOpened("bus")
	r.Connect(sidecar).Initialized(PubSub, "bus", app)
	closed()

	r = open(t, dir, nil)
	require.Empty(t, r.Missing())
	r.Connect(sidecar).StreamOpened("bus")
	r = open(t, dir, nil)
	require.Equal(t, []string{"bus"}, r.Missing())
	end()
	require.Empty(t, r.Missing(), "one that has ended misses nothing")
}

func TestADamagedFileIsReportedAndBegunAnew(t *testing.T) {
	for name, content := range map[string]string{"damaged": "{", "of another version": `{"version":99,"instances":[{}]}`} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), []byte(content), 0o600))
		var log bytes.Buffer
		r := open(t, dir, &log)
		require.Empty(t, r.instances)
		require.Contains(t, log.String(), name)
		r.Connect(anonymous).Initialized(State, "c", nil)
		require.Len(t, open(t, dir, nil).instances, 1)
		info, err := os.Stat(filepath.Join(dir, fileName))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`{"version":1,"instances":[{"kind":"state","component":"c","properties":{"a":"b"},"sidecar":{"pid":1,"start":2}},null]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), data, 0o600))
		r := open(t, dir, nil)
		r.Missing()
		s := r.Connect(anonymous)
		s.Find(State, "c")
		s.Initialized(State, "c", nil)
		require.Len(t, s.Find(State, "c"), 1)
	})
}
