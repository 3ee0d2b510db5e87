package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// A stand-in for the Dapr CLI that notes what it is given and, as an app may, leaves a process behind that does not
// listen to Ctrl-C. conformance/e2e has the real one.
const standIn = `#!/bin/sh
printf '%s\n' "$@" > "$NOTES/arguments"
env > "$NOTES/environment"
case "$*" in *--run-file*) cat > "$NOTES/input"; pwd > "$NOTES/dir";; esac
sleep 100000 &
echo $! > "$NOTES/child"
trap 'exit 0' INT TERM
mv "$NOTES/child" "$NOTES/started"
wait
`

// developer is a machine on which somebody works.
type developer struct {
	folders
	work, home, bin, notes string
}

func newDeveloper(t *testing.T) *developer {
	t.Helper()
	f := newFolders(t)
	dir := t.TempDir()
	d := &developer{folders: f, work: filepath.Join(dir, "shop"), home: filepath.Join(dir, "home"), bin: filepath.Join(dir, "bin"), notes: filepath.Join(dir, "notes")}
	for _, folder := range []string{d.work, d.bin, d.notes, filepath.Join(d.home, ".dapr", "bin")} {
		require.NoError(t, os.MkdirAll(folder, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(d.bin, "dapr"), []byte(standIn), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(d.home, ".dapr", "bin", "daprd"), nil, 0o755))
	return d
}

// start runs `dapr-bolt dev` in the folder work, on a PATH with the stand-in.
func (d *developer) start(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{folders: d.folders, waited: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], append([]string{"dev", "--data-dir", d.data, "--socket-dir", d.sockets, "--http-listen="}, args...)...)
	p.cmd.Dir = d.work
	p.cmd.Env = append(os.Environ(), "PATH="+d.bin+":/usr/bin:/bin", "HOME="+d.home, "NOTES="+d.notes)
	p.cmd.Stdout, p.cmd.Stderr = &p.stderr, &p.stderr
	// A process that it leaves behind keeps the output open.
	p.cmd.WaitDelay = time.Second
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.waited)
		_ = p.cmd.Wait() // the exit code is what counts
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.waited
		if t.Failed() {
			t.Log(p.stderr.String())
		}
	})
	return p
}

// started waits for the stand-in, and returns the process that it leaves behind.
func (d *developer) started(t *testing.T, p *program) (child int) {
	t.Helper()
	path := filepath.Join(d.notes, "started")
	require.Eventually(t, func() bool {
		_, err := os.Stat(path)
		select {
		case <-p.waited:
			return true
		default:
			return err == nil
		}
	}, patience, 5*time.Millisecond)
	child, err := strconv.Atoi(d.note(t, "started"))
	require.NoError(t, err)
	return child
}

// note is something that the stand-in wrote.
func (d *developer) note(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(d.notes, name)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.TrimSpace(string(text))
}

// says waits for text in the output.
func (p *program) says(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(p.stderr.String(), text) }, patience, 5*time.Millisecond, text)
}

func TestDevRunsAnAppAndEndsAllOfIt(t *testing.T) {
	d := newDeveloper(t)
	p := d.start(t, "--app-port", "8000", "--", "python", "app.py", "--flag")
	child := d.started(t, p)
	components := filepath.Join(d.work, "components")
	require.Equal(t, strings.Split("run --app-id shop --resources-path "+components+" --log-level warn"+
		" --placement-host-address  --scheduler-host-address "+
		" --app-port 8000 --app-protocol http --enable-app-health-check --app-health-check-path /healthz"+
		" --app-health-probe-interval 1 --app-health-threshold 2 -- python app.py --flag", " "), strings.Split(d.note(t, "arguments"), "\n"))
	require.Contains(t, d.note(t, "environment"), "DAPR_COMPONENTS_SOCKETS_FOLDER="+d.sockets+"\n")
	for _, line := range []string{
		"wrote " + filepath.Join(components, "statestore.yaml"),
		"wrote " + filepath.Join(components, "pubsub.yaml"),
		"components in " + components + ": pubsub (pubsub.bolt), statestore (state.bolt)",
		"dapr-bolt serves state.bolt and pubsub.bolt; what they keep is in " + d.data,
	} {
		p.says(t, line)
	}
	require.FileExists(t, d.componentSocket())

	p.signal(t, os.Interrupt)
	require.Equal(t, exitOK, p.exitCode(t))
	require.NoFileExists(t, d.componentSocket())
	requireGone(t, child)
}

// requireGone waits until the process has ended, whoever is to collect it.
func requireGone(t *testing.T, pid int) {
	t.Helper()
	_, err := exec.LookPath("ps")
	require.NoError(t, err, "without it, every process would seem to have ended")
	require.Eventually(t, func() bool {
		stat, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
		return err != nil || strings.HasPrefix(strings.TrimSpace(string(stat)), "Z")
	}, patience, 20*time.Millisecond)
}

func TestDevEndsWithItsApp(t *testing.T) {
	d := newDeveloper(t)
	require.NoError(t, os.WriteFile(filepath.Join(d.bin, "dapr"), []byte("#!/bin/sh\nexit 7\n"), 0o755))
	p := d.start(t, "--", "app")
	require.Equal(t, exitFailure, p.exitCode(t))
	require.Contains(t, p.stderr.String(), "dapr run: exit status 7")
	require.NoFileExists(t, d.componentSocket())
}

func TestDevTakesComponentFilesAsTheyAre(t *testing.T) {
	d := newDeveloper(t)
	folder := filepath.Join(d.work, "resources")
	require.NoError(t, os.Mkdir(folder, 0o755))
	mine := filepath.Join(folder, "mine.yaml")
	const text = "kind: Component\nmetadata: {name: orders}\nspec: {type: pubsub.bolt}\n---\nkind: Subscription\nmetadata: {name: s}\nspec: {metadata: {ordered: 'true'}}\n"
	require.NoError(t, os.WriteFile(mine, []byte(text), 0o644))
	p := d.start(t, "--components", "resources")
	p.says(t, "components in "+folder+": orders (pubsub.bolt)")
	p.says(t, "start each app in a terminal of its own: dapr-bolt dev --app-id ID --app-port PORT -- COMMAND")
	p.stop(t)
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	after, err := os.ReadFile(mine)
	require.NoError(t, err)
	require.Equal(t, text, string(after))

	require.NoError(t, os.WriteFile(mine, []byte("kind: Component\nmetadata: {name: orders}\nspec: {type: pubsub.redis}\n"), 0o644))
	p = d.start(t, "--components", "resources")
	p.says(t, "none of the components in "+folder+" is of type state.bolt or pubsub.bolt")
	p.stop(t)

	require.NoError(t, os.WriteFile(mine, []byte("kind: ["), 0o644))
	p = d.start(t, "--components", "resources")
	require.Equal(t, exitFailure, p.exitCode(t))
	require.Contains(t, p.stderr.String(), "component files: "+mine+": yaml")
}

func TestDevUsesTheProcessThatIsThere(t *testing.T) {
	d := newDeveloper(t)
	serving := start(t, d.folders)
	p := d.start(t, "--", "app")
	d.started(t, p)
	p.says(t, "dapr-bolt runs already, as process "+strconv.Itoa(serving.cmd.Process.Pid))
	p.stop(t)
	require.FileExists(t, d.componentSocket(), "the other one goes on")
	serving.stop(t)
}

func TestDevCompletesARunFile(t *testing.T) {
	d := newDeveloper(t)
	path := filepath.Join(d.work, "dapr.yaml")
	require.NoError(t, os.WriteFile(path, []byte("version: 1\ncommon: {appHealthThreshold: 5}\napps:\n- appID: a\n  appDirPath: a\n  command: [sleep, '1']\n"), 0o644))
	p := d.start(t, "-f", ".")
	d.started(t, p)
	require.Equal(t, "run\n--run-file\n-", d.note(t, "arguments"))
	require.Equal(t, d.work, d.note(t, "dir"))
	var file struct {
		Version int
		Common  map[string]any
		Apps    []map[string]any
	}
	require.NoError(t, yaml.Unmarshal([]byte(d.note(t, "input")), &file))
	require.Equal(t, 1, file.Version)
	require.Equal(t, []map[string]any{{"appID": "a", "appDirPath": "a", "command": []any{"sleep", "1"}}}, file.Apps)
	require.Equal(t, map[string]any{
		"resourcesPaths": []any{filepath.Join(d.work, "components")}, "logLevel": "warn",
		"placementHostAddress": "", "schedulerHostAddress": " ",
		"enableAppHealthCheck": true, "appHealthCheckPath": "/healthz", "appHealthProbeInterval": 1, "appHealthThreshold": 5,
	}, file.Common)
	require.FileExists(t, filepath.Join(d.work, "components", "pubsub.yaml"))
	p.stop(t)

	// The folders that it names are relative to it and to the app.
	require.NoError(t, os.MkdirAll(filepath.Join(d.work, "b", ".dapr", "resources"), 0o755))
	require.NoError(t, os.WriteFile(path, []byte("version: 1\ncommon: {resourcesPath: all}\napps:\n- {appDirPath: b, resourcesPaths: [own]}\n"), 0o644))
	p = d.start(t, "-f", "dapr.yaml")
	p.says(t, "wrote "+filepath.Join(d.work, "all", "pubsub.yaml"))
	p.says(t, "components in "+strings.Join([]string{filepath.Join(d.work, "all"), filepath.Join(d.work, "b", "own"), filepath.Join(d.work, "b", ".dapr", "resources")}, ", ")+": pubsub")
	p.stop(t)
}

func TestDevSaysWhatIsMissing(t *testing.T) {
	t.Run("a sidecar", func(t *testing.T) {
		d := newDeveloper(t)
		require.NoError(t, os.Remove(filepath.Join(d.home, ".dapr", "bin", "daprd")))
		p := d.start(t, "--", "app")
		require.Equal(t, exitFailure, p.exitCode(t))
		require.Contains(t, p.stderr.String(), "install it, once, with: dapr init --slim")
		require.NoDirExists(t, d.data, "nothing was started")
	})
	t.Run("the Dapr CLI", func(t *testing.T) {
		d := newDeveloper(t)
		require.NoError(t, os.Remove(filepath.Join(d.bin, "dapr")))
		p := d.start(t, "-f", "dapr.yaml")
		require.Equal(t, exitFailure, p.exitCode(t))
		require.Contains(t, p.stderr.String(), "curl -fsSL https://raw.githubusercontent.com/dapr/cli/master/install/install.sh | /bin/bash\n  dapr init --slim\n")
	})
	t.Run("a run file", func(t *testing.T) {
		d := newDeveloper(t)
		p := d.start(t, "-f", "dapr.yaml")
		require.Equal(t, exitFailure, p.exitCode(t))
		require.Contains(t, p.stderr.String(), filepath.Join(d.work, "dapr.yaml"))
	})
	t.Run("the dashes", func(t *testing.T) {
		got := shell{}.run(t, "dev", "--data-dir", t.TempDir(), "python", "app.py")
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.stderr, `unexpected argument "python": the command to run goes behind --`)
	})
	t.Run("the app's health", func(t *testing.T) {
		d := newDeveloper(t)
		app := httptest.NewServer(http.NotFoundHandler())
		defer app.Close()
		p := d.start(t, "--app-port", app.URL[strings.LastIndex(app.URL, ":")+1:], "--", "app")
		p.says(t, "/healthz with 404 Not Found: it gets no events until it answers 200")
		p.signal(t, syscall.SIGTERM)
		require.Equal(t, exitOK, p.exitCode(t))
	})
}
