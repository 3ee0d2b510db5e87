package performance

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// Machine says where, when and with what something was measured.
type Machine struct {
	Date     string            `json:"date"`
	System   string            `json:"system"`
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Go       string            `json:"go"`
	Versions map[string]string `json:"versions"`
}

func describeMachine(ctx context.Context) Machine {
	m := Machine{
		Date:     time.Now().UTC().Format(time.DateOnly),
		System:   runtime.GOOS + "/" + runtime.GOARCH,
		CPU:      "unknown",
		Cores:    runtime.NumCPU(),
		Go:       runtime.Version(),
		Versions: map[string]string{},
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System += ", kernel " + strings.TrimSpace(string(release))
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range build.Deps {
			switch dep.Path {
			case "github.com/dapr/components-contrib", "github.com/dapr/dapr", "github.com/nats-io/nats-server/v2",
				"go.etcd.io/bbolt", "google.golang.org/grpc", "modernc.org/sqlite":
				m.Versions[dep.Path] = dep.Version
			}
		}
	}
	if redisMissing() == nil {
		if out, err := exec.CommandContext(ctx, redisServer, "--version").Output(); err == nil {
			m.Versions[redisServer] = redisVersion(string(out))
		}
	}
	return m
}

// redisVersion finds "v=7.0.15" in what the server prints.
func redisVersion(printed string) string {
	for field := range strings.FieldsSeq(printed) {
		if version, ok := strings.CutPrefix(field, "v="); ok {
			return "v" + version
		}
	}
	return strings.TrimSpace(printed)
}
