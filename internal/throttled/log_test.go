package throttled_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/throttled"
)

func ExampleLog() {
	var refused throttled.Log
	start := time.Now()
	for _, second := range []int{0, 1, 9, 10, 11} {
		if suppressed, ok := refused.Allow(start.Add(time.Duration(second)*time.Second), 10*time.Second); ok {
			fmt.Println("second", second, "and", suppressed, "times before")
		}
	}
	// Output:
	// second 0 and 0 times before
	// second 10 and 2 times before
}

// The first line is written whatever the clock says.
func TestTheFirstLineIsAllowed(t *testing.T) {
	var line throttled.Log
	_, ok := line.Allow(time.Time{}, time.Hour)
	require.True(t, ok)
	_, ok = line.Allow(time.Time{}, time.Hour)
	require.False(t, ok)
}
