package harness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// BoltOptions describe a dapr-bolt process.
type BoltOptions struct {
	// Path is the binary.
	Path string
	// Name is the process's name in logs and its folder. Default: dapr-bolt.
	Name string
	// DataDir holds the database files. Default: data/ in the harness's folder.
	DataDir string
	// SocketDir is where the component's socket goes. Default: the harness's.
	SocketDir string
	// HTTPPort serves health and metrics. Default: a free port.
	HTTPPort int
	// Args and Env are added to what the other fields say.
	Args, Env []string
	// Credential is the user to run it as, which takes root. Default: the one who runs the harness.
	Credential *syscall.Credential
	// OwnPIDs runs it in a PID namespace of its own, as in a container of a Pod, which takes root and Linux.
	OwnPIDs bool
}

// Bolt is a dapr-bolt process.
type Bolt struct {
	*Process
	// DataDir holds its database files.
	DataDir string
	// SocketDir holds its component socket.
	SocketDir string
	// HTTPAddress serves its health and metrics.
	HTTPAddress string
}

// StartBolt starts dapr-bolt and waits until it is ready, as a sidecar must not be
// started before the component listens.
func (h *Harness) StartBolt(ctx context.Context, opts BoltOptions) (*Bolt, error) {
	opts.Name = cmp.Or(opts.Name, "dapr-bolt")
	opts.DataDir = cmp.Or(opts.DataDir, h.Dir("data"))
	opts.SocketDir = cmp.Or(opts.SocketDir, h.SocketDir())
	port, err := h.portOr(opts.HTTPPort)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{opts.DataDir, opts.SocketDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	bolt := &Bolt{
		DataDir:     opts.DataDir,
		SocketDir:   opts.SocketDir,
		HTTPAddress: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
	}
	bolt.Process, err = h.start(kindComponent, spec{
		Name: opts.Name,
		Path: opts.Path,
		Args: append([]string{
			"--data-dir", opts.DataDir,
			"--socket-dir", opts.SocketDir,
			"--http-listen", bolt.HTTPAddress,
		}, opts.Args...),
		Env:   opts.Env,
		Ready: answers("http://" + bolt.HTTPAddress + "/readyz"),

		Credential: opts.Credential,
		OwnPIDs:    opts.OwnPIDs,
	})
	if err != nil {
		return nil, err
	}
	return bolt, bolt.WaitReady(ctx)
}

// portOr is port, or a free one if that is 0.
func (h *Harness) portOr(port int) (int, error) {
	if port != 0 {
		return port, nil
	}
	return h.FreePort()
}

// Restart starts dapr-bolt again after Stop or Kill and waits until it is ready.
func (b *Bolt) Restart(ctx context.Context) error {
	if err := b.Start(); err != nil {
		return err
	}
	return b.WaitReady(ctx)
}

// commandTimeout is far more than a subcommand takes on any data of a test.
const commandTimeout = 20 * time.Minute

// Command runs a subcommand of dapr-bolt against this process's data folder, with
// --output json, and decodes what it prints into result (nil: not looked at).
func (b *Bolt) Command(ctx context.Context, result any, args ...string) error {
	args = append(args, "--data-dir", b.DataDir, "--output", "json")
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.spec.Path, args...)
	cmd.Env = inheritedEnvironment()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("dapr-bolt %q: %w", args, errors.Join(err, errors.New(stderr.String())))
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), result); err != nil {
		return fmt.Errorf("dapr-bolt %q printed %q: %w", args, stdout.String(), err)
	}
	return nil
}

// DeadLetters lists dead letters; the arguments are those of the command.
func (b *Bolt) DeadLetters(ctx context.Context, args ...string) ([]admin.DeadLetter, error) {
	var letters []admin.DeadLetter
	err := b.Command(ctx, &letters, append([]string{"dead-letters", "list"}, args...)...)
	return letters, err
}

// ConsoleLink is the link that lets a browser into the console.
func (b *Bolt) ConsoleLink(ctx context.Context) (string, error) {
	var printed struct{ Link string }
	err := b.Command(ctx, &printed, "console")
	return printed.Link, err
}
