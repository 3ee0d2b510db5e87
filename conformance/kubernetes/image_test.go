package kubernetes_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// requireVariable turns the absence of a tool that a test needs into a failure, for machines that must have it.
const requireVariable = "DAPR_BOLT_REQUIRE_TOOLS"

// skipWithout skips a test whose tool is not on the machine.
func skipWithout(t *testing.T, tool, get string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		message := fmt.Sprintf("%s is not installed (%s)", tool, get)
		require.Empty(t, os.Getenv(requireVariable), message)
		t.Skip(message)
	}
}

// image is one that was built and unpacked.
type image struct {
	root   string
	binary int64 // size of the binary that it was made from
	size   int64 // of all its files
	Config struct {
		User         string
		Entrypoint   []string
		Env          []string
		Labels       map[string]string
		Volumes      map[string]any
		ExposedPorts map[string]any
		Healthcheck  struct{ Test []string }
	} `json:"config"`
}

// buildImage builds a target of the Dockerfile from a static binary, with no registry and no daemon, and unpacks it.
func buildImage(t *testing.T, target, command string) image {
	t.Helper()
	checkout, err := harness.FindCheckout()
	require.NoError(t, err)
	// Sockets of the processes that run in it need a short path.
	dir, err := os.MkdirTemp("", "image-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))

	// The build context is what the Dockerfile says: the checkout's own .dockerignore and a folder dist.
	context := filepath.Join(dir, "context")
	for _, name := range []string{"Dockerfile", ".dockerignore"} {
		raw, err := os.ReadFile(checkout.Path(name))
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Join(context, "dist"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(context, name), raw, 0o644))
	}
	binary := filepath.Join(context, "dist", command)
	compile := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", binary, "./cmd/"+command)
	compile.Dir = checkout.Path()
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := compile.CombinedOutput()
	require.NoError(t, err, "%s", out)
	made := image{root: filepath.Join(dir, "root")}
	info, err := os.Stat(binary)
	require.NoError(t, err)
	made.binary = info.Size()

	buildah := func(args ...string) {
		t.Helper()
		store := []string{"--root", filepath.Join(dir, "store"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}
		out, err := exec.CommandContext(t.Context(), "buildah", append(store, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	archive := filepath.Join(dir, "image.tar")
	// Docker's format: that of OCI has no place for a HEALTHCHECK.
	buildah("build", "--isolation", "chroot", "--format", "docker", "--target", target,
		"--build-arg", "VERSION=v1.2.3", "--build-arg", "REVISION=abc", "-t", "image", context)
	buildah("push", "image", "docker-archive:"+archive)

	packed := filepath.Join(dir, "packed")
	unpack(t, archive, packed)
	var manifest []struct {
		Config string
		Layers []string
	}
	readJSON(t, filepath.Join(packed, "manifest.json"), &manifest)
	require.Len(t, manifest, 1)
	readJSON(t, filepath.Join(packed, manifest[0].Config), &made)
	for _, layer := range manifest[0].Layers {
		unpack(t, filepath.Join(packed, layer), made.root)
	}
	for _, path := range files(t, made.root) {
		info, err := os.Stat(filepath.Join(made.root, path))
		require.NoError(t, err)
		if info.Mode().IsRegular() {
			made.size += info.Size()
		}
	}
	return made
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, into))
}

// unpack writes the files of an archive to a folder, with their owners if this is root.
func unpack(t *testing.T, archive, to string) {
	t.Helper()
	file, err := os.Open(archive)
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	require.NoError(t, os.MkdirAll(to, 0o755))
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		require.True(t, filepath.IsLocal(header.Name), header.Name)
		path := filepath.Join(to, header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			require.NoError(t, os.MkdirAll(path, 0o755))
		case tar.TypeReg:
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, header.FileInfo().Mode())
			require.NoError(t, err)
			_, err = io.Copy(out, reader)
			require.NoError(t, err)
			require.NoError(t, out.Close())
		default:
			continue // the archive's own links between layers
		}
		if os.Geteuid() == 0 {
			require.NoError(t, os.Chown(path, header.Uid, header.Gid))
		}
	}
}

// files lists everything below a folder.
func files(t *testing.T, root string) []string {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if relative, _ := filepath.Rel(root, path); relative != "." {
			found = append(found, relative)
		}
		return err
	}))
	return found
}

// in makes a command of the image run in it, as its user: its root is the only one that the process sees.
func (i image) in(t *testing.T, cmd *exec.Cmd, env ...string) *exec.Cmd {
	t.Helper()
	var user, group uint32
	_, err := fmt.Sscanf(i.Config.User, "%d:%d", &user, &group)
	require.NoError(t, err)
	cmd.Dir, cmd.Env = "/", append(slices.Clone(i.Config.Env), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: i.root, Credential: &syscall.Credential{Uid: user, Gid: group}, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func TestImage(t *testing.T) {
	t.Parallel()
	skipWithout(t, "buildah", "on Debian and Ubuntu: apt-get install --no-install-recommends buildah")
	i := buildImage(t, "prebuilt", "dapr-bolt")

	require.Equal(t, []string{"dapr-bolt", "data"}, files(t, i.root), "no shell and nothing else")
	require.Less(t, i.size-i.binary, int64(1<<20), "bytes over the binary")
	t.Logf("the image holds %d bytes, the binary %d of them", i.size, i.binary)
	require.Equal(t, "65532:65532", i.Config.User)
	require.Equal(t, []string{"/dapr-bolt"}, i.Config.Entrypoint)
	require.Equal(t, []string{"CMD", "/dapr-bolt", "health"}, i.Config.Healthcheck.Test)
	require.Contains(t, i.Config.Volumes, "/data")
	require.Contains(t, i.Config.ExposedPorts, "9180/tcp")
	require.Equal(t, "v1.2.3", i.Config.Labels["org.opencontainers.image.version"])
	require.Equal(t, "abc", i.Config.Labels["org.opencontainers.image.revision"])
	require.Equal(t, "Apache-2.0", i.Config.Labels["org.opencontainers.image.licenses"])

	if os.Geteuid() != 0 {
		t.Skip("the image was built and looked into; only root may run it with a root of its own")
	}
	// What a Pod mounts beside the data. Everything else is root's, and so read-only for the image's user.
	sockets := filepath.Join(i.root, "tmp", "dapr-components-sockets")
	require.NoError(t, os.MkdirAll(sockets, 0o755))
	require.NoError(t, os.Chown(sockets, 65532, 65532))
	before := files(t, i.root)

	h, err := harness.New(harness.Options{})
	require.NoError(t, err)
	port, err := h.FreePort()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	address := fmt.Sprintf("127.0.0.1:%d", port)
	process := i.in(t, exec.Command(i.Config.Entrypoint[0]), "DAPR_BOLT_HTTP_LISTEN="+address)
	var log strings.Builder
	process.Stdout, process.Stderr = &log, &log
	require.NoError(t, process.Start())
	running := true
	t.Cleanup(func() {
		if running {
			_ = process.Process.Kill()
			_ = process.Wait()
			t.Log(log.String())
		}
	})
	require.Eventually(t, func() bool {
		response, err := harness.Call(t.Context(), "GET", "http://"+address+"/readyz", nil)
		return err == nil && response.Status == 200
	}, seen, 20*time.Millisecond)

	healthcheck := i.Config.Healthcheck.Test[1:]
	out, err := i.in(t, exec.Command(healthcheck[0], healthcheck[1:]...)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "/tmp/dapr-components-sockets/bolt.sock")
	require.FileExists(t, filepath.Join(i.root, "data", "dapr-bolt", "dapr.db"))

	require.NoError(t, process.Process.Signal(syscall.SIGTERM))
	running = false
	require.NoError(t, process.Wait(), "%s", &log)
	out, err = i.in(t, exec.Command(healthcheck[0], healthcheck[1:]...)).CombinedOutput()
	require.Error(t, err, "%s", out)
	after := slices.DeleteFunc(files(t, i.root), func(path string) bool { return strings.HasPrefix(path, "data/") })
	require.Equal(t, before, after, "nothing is written but to the volume")
}

func TestTodoImage(t *testing.T) {
	t.Parallel()
	skipWithout(t, "buildah", "on Debian and Ubuntu: apt-get install --no-install-recommends buildah")
	i := buildImage(t, "prebuilt-todo", "todo")
	require.Equal(t, []string{"todo"}, files(t, i.root))
	require.Equal(t, "65532:65532", i.Config.User)
	require.Equal(t, []string{"/todo"}, i.Config.Entrypoint)
	if os.Geteuid() != 0 {
		t.Skip("the image was built and looked into; only root may run it with a root of its own")
	}
	out, err := i.in(t, exec.Command("/todo", "--help")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "scheduler")
}
