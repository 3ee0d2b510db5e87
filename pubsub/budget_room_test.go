package pubsub

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Who waits for room is woken in turn, one for each time that there is some, and not for less than it would read.
func TestRoomWakesOneAtATime(t *testing.T) {
	woken := func(wake chan struct{}) bool {
		select {
		case <-wake:
			return true
		default:
			return false
		}
	}
	newWake := func() chan struct{} { return make(chan struct{}, 1) }
	first, second, third := newWake(), newWake(), newWake()
	b := NewBudget(2 * readAheadBytes)
	b.wait(first)
	require.True(t, woken(first), "room came up before it waited")

	require.True(t, b.take(2*readAheadBytes))
	require.False(t, b.take(1))
	b.wait(first)
	b.wait(second)
	b.wait(first)
	b.wait(third)
	b.Free(readAheadBytes / 2)
	require.False(t, woken(first))
	b.Free(readAheadBytes)
	require.True(t, woken(first))
	require.False(t, woken(second))
	// The first ends, and leaves to the next what it was woken for.
	b.leave(first)
	require.True(t, woken(second))
	require.False(t, woken(third))
	b.leave(third)
	b.passOn()
	require.False(t, woken(third))
	require.EqualValues(t, readAheadBytes/2, b.Used())
	require.Zero(t, b.refused.Load())
}
