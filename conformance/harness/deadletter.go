package harness

import (
	"context"
	"encoding/json"
)

// DeadLetter is what `dapr-bolt dead-letters list --output json` says of one.
type DeadLetter struct {
	ID         json.Number `json:"id"`
	Topic      string      `json:"topic"`
	Group      string      `json:"group"`
	Deliveries int         `json:"deliveries"`
	LastError  string      `json:"lastError"`
	Event      struct {
		ID string `json:"id"`
	} `json:"event"`
}

// DeadLetters lists dead letters; the arguments are those of the command.
func (b *Bolt) DeadLetters(ctx context.Context, args ...string) ([]DeadLetter, error) {
	var letters []DeadLetter
	err := b.Command(ctx, &letters, append([]string{"dead-letters", "list"}, args...)...)
	return letters, err
}
