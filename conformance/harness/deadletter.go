package harness

import (
	"context"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
)

// DeadLetters lists dead letters; the arguments are those of the command.
func (b *Bolt) DeadLetters(ctx context.Context, args ...string) ([]admin.DeadLetter, error) {
	var letters []admin.DeadLetter
	err := b.Command(ctx, &letters, append([]string{"dead-letters", "list"}, args...)...)
	return letters, err
}
