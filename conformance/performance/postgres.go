package performance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const postgresServer = "postgres"

// postgresPrograms is the folder with PostgreSQL's programs, which Debian keeps out of PATH.
func postgresPrograms() (string, error) {
	if path, err := exec.LookPath(postgresServer); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob(filepath.Join("/usr/lib/postgresql/*/bin", postgresServer))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%s is not installed (`apt-get install postgresql`)", postgresServer)
	}
	return filepath.Dir(found[len(found)-1]), nil
}

func postgresMissing() string {
	programs, err := postgresPrograms()
	if err != nil {
		return err.Error()
	}
	version := notRoot(filepath.Join(programs, postgresServer), "--version")
	if out, err := exec.Command(version[0], version[1:]...).CombinedOutput(); err != nil {
		return fmt.Sprintf("%s cannot be run as another user than root: %v: %s", postgresServer, err, out)
	}
	return ""
}

// notRoot is the command for a program that refuses to be root: in a user namespace, root has another number.
func notRoot(program string, args ...string) []string {
	command := append([]string{program}, args...)
	if os.Geteuid() != 0 {
		return command
	}
	return append([]string{"unshare", "--user", "--map-user=1", "--map-group=1"}, command...)
}

// startPostgres starts one server, and returns what state.postgresql is to be told, to have as many connections as there are
// clients.
func startPostgres(ctx context.Context, p *peer) (map[string]string, error) {
	programs, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	data := p.Dir("postgresql")
	initialize := notRoot(filepath.Join(programs, "initdb"), "-D", data, "-U", "postgres", "--auth", "trust", "--no-locale")
	if out, err := exec.CommandContext(ctx, initialize[0], initialize[1:]...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	command := notRoot(filepath.Join(programs, postgresServer), "-D", data, "-h", "127.0.0.1", "-k", "", "-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "max_connections=200")
	var port string
	_, err = p.startServer(ctx, command[0], func(free string) []string {
		port = free
		return append(command[1:], "-p", port)
	})
	if err != nil {
		return nil, err
	}
	p.process = nil // it is one of many
	// It listens some time before it serves.
	err = eventually(ctx, func() error {
		return exec.CommandContext(ctx, filepath.Join(programs, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port).Run()
	})
	if err != nil {
		return nil, fmt.Errorf("%s does not serve: %w", postgresServer, err)
	}
	connection := fmt.Sprintf("host=127.0.0.1 port=%s user=postgres database=postgres sslmode=disable pool_max_conns=64", port)
	return map[string]string{"connectionString": connection}, nil
}
