package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// release is set by the linker: -ldflags "-X main.release=v1.2.3".
var release string

// version is the release, else what the Go toolchain stamped in, else "dev".
func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// versionInfo says which build this is.
type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	// Date is when the revision was committed, in RFC 3339.
	Date     string `json:"date,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion() versionInfo {
	v := versionInfo{Version: version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.time":
				v.Date = s.Value
			}
		}
	}
	return v
}

func (v versionInfo) String() string {
	parts := []string{v.Go, v.Platform}
	if v.Revision != "" {
		parts = append([]string{"commit " + v.Revision[:min(12, len(v.Revision))] + " of " + v.Date}, parts...)
	}
	return fmt.Sprintf("dapr-bolt %s (%s)", v.Version, strings.Join(parts, ", "))
}

func (c *cli) versionCommand() *cobra.Command {
	cmd := c.command("version", "Say which build this is", func(context.Context, []string) error {
		return c.say(newVersion(), "%s\n", newVersion())
	})
	c.outputFlag(cmd, cmd.Flags())
	return cmd
}
