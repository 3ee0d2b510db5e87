package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Free ports come from below the range from which systems take the ports of
// outgoing connections, so that none of those can sit on one between the choice
// and the listening.
const (
	firstPort = 20000
	lastPort  = 29999
)

// FreePort returns a TCP port that nobody listens on and that no other harness of this machine gets until this one is closed:
// each is a locked file.
func (h *Harness) FreePort() (int, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("dapr-bolt-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	const attempts = 1000
	for range attempts {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		lock, err := tryLock(filepath.Join(dir, strconv.Itoa(port)))
		if errors.Is(err, errLocked) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if CheckPort(port) != nil {
			_ = lock.Close()
			continue
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.ports = append(h.ports, lock)
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d after %d attempts", firstPort, lastPort, attempts)
}

// listenPatience is for how long Listen takes a port for one that is about to be free.
const listenPatience = time.Minute

// Listen listens on a port of 127.0.0.1. A listener that was closed lives on for
// an instant in a process that this one is just starting, between its fork and its
// exec: that is waited for.
func Listen(ctx context.Context, port int) (net.Listener, error) {
	ctx, cancel := context.WithTimeout(ctx, listenPatience)
	defer cancel()
	for {
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if !errors.Is(err, syscall.EADDRINUSE) {
			return listener, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Millisecond):
		}
	}
}

// CheckPort reports whether port can be listened on, on this machine's addresses.
func CheckPort(port int) error {
	for _, host := range []string{"127.0.0.1", ""} {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("port %d is in use by another process", port)
		case err != nil:
			return err
		}
		if err := listener.Close(); err != nil {
			return err
		}
	}
	return nil
}
