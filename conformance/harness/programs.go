package harness

import (
	"context"
	"io"
)

// Programs are the binaries that tests, the demo and `make run` start.
type Programs struct {
	Bolt, Todo, Daprd string
}

// BuildPrograms builds what is not built yet, and tells progress about it. The
// first time takes minutes.
func (c Checkout) BuildPrograms(ctx context.Context, progress io.Writer) (p Programs, err error) {
	if p.Bolt, err = c.Command(ctx, "dapr-bolt", progress); err != nil {
		return Programs{}, err
	}
	if p.Todo, err = c.Command(ctx, "todo", progress); err != nil {
		return Programs{}, err
	}
	p.Daprd, err = c.Daprd(ctx, progress)
	return p, err
}
