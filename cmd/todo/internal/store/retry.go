package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	retryAttempts   = 12
	retryFirstPause = 2 * time.Millisecond
	retryMaxPause   = 250 * time.Millisecond
)

// Retry runs step, which reads, decides and applies, until it does not end in ErrConflict: twelve times at
// most, with jittered pauses that grow to a quarter of a second. After that it returns the conflict.
func Retry(ctx context.Context, step func(ctx context.Context) error) error {
	pause := retryFirstPause
	for attempt := 1; ; attempt++ {
		err := step(ctx)
		if !errors.Is(err, ErrConflict) || attempt == retryAttempts {
			return err
		}
		timer := time.NewTimer(rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(ctx.Err(), err)
		case <-timer.C:
		}
		pause = min(2*pause, retryMaxPause)
	}
}
