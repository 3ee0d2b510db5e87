package quiet_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/internal/quiet"
)

func ExampleLine() {
	var refused quiet.Line
	start := time.Now()
	for _, second := range []int{0, 1, 9, 10, 11} {
		if unsaid, due := refused.Due(start.Add(time.Duration(second)*time.Second), 10*time.Second); due {
			fmt.Println("second", second, "and", unsaid, "times before")
		}
	}
	// Output:
	// second 0 and 0 times before
	// second 10 and 2 times before
}

// The first line is written whatever the clock says.
func TestTheFirstLineIsDue(t *testing.T) {
	var line quiet.Line
	_, due := line.Due(time.Time{}, time.Hour)
	require.True(t, due)
	_, due = line.Due(time.Time{}, time.Hour)
	require.False(t, due)
}
