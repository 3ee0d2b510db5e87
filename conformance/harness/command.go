package harness

import (
	"context"
	"io"
)

// Command builds <checkout>/cmd/<name> and returns the path of the binary. It
// always asks the Go tool, whose own cache makes an unchanged build quick. With
// the race detector on in the calling program, the binary has it as well.
func (c Checkout) Command(ctx context.Context, name string, progress io.Writer) (string, error) {
	folder := "bin"
	var flags []string
	if RaceEnabled {
		folder, flags = "bin-race", []string{"-race"}
	}
	path := c.Path(".cache", folder, name)
	unlock, err := lockFile(ctx, c.Path(".cache", name+".lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	return path, goBuild(ctx, goBuildOptions{
		What:     name,
		Dir:      c.Path(),
		Package:  "./cmd/" + name,
		Output:   path,
		Progress: progress,
		Flags:    flags,
	})
}
