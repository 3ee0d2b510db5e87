package performance

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strconv"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const redisServer = "redis-server"

func redisMissing() error {
	if _, err := exec.LookPath(redisServer); err != nil {
		return errors.New(redisServer + " is not installed (`apt-get install redis-server`, `brew install redis`)")
	}
	return nil
}

func serveRedis(ctx context.Context, w *world) (map[string]string, error) {
	path, err := exec.LookPath(redisServer)
	if err != nil {
		return nil, err
	}
	dir, err := w.folder("redis")
	if err != nil {
		return nil, err
	}
	port, err := w.FreePort()
	if err != nil {
		return nil, err
	}
	server, err := w.StartServer(harness.ServerOptions{
		Name: "redis",
		Path: path,
		Args: []string{
			"--bind", "127.0.0.1",
			"--port", strconv.Itoa(port),
			"--dir", dir,
			"--appendonly", "yes",
			"--appendfsync", "always",
			"--save", "",
		},
		Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
	})
	if err != nil {
		return nil, err
	}
	return map[string]string{"redisHost": server.Address, "redisPassword": ""}, server.WaitReady(ctx)
}
