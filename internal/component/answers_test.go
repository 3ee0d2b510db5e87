package component

import (
	"testing"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
)

func TestWhoPaysForUnreadAnswers(t *testing.T) {
	const limit = 1 << 20
	clock := clockwork.NewFakeClock()
	a := testArrivals(limit, 100)
	a.clock = clock
	begin := func(pid int) *modelConn { return newModelConn(t.Context(), a, pid) }
	call := func(c *modelConn) *arrival {
		k := c.begin(t)
		require.NoError(t, a.takeOver(k))
		return k
	}
	deaf, other := begin(1), begin(1)
	require.NoError(t, a.answered(call(deaf), 2*limit), "one alone fits")
	require.EqualError(t, a.answered(call(other), limit/2),
		"too many answers at once: 2097152 bytes are not read yet, this one has 524288; --max-request-bytes allows no more than 1048576")
	require.NoError(t, a.answered(call(other), smallAnswer), "small ones are not counted")
	require.False(t, deaf.closed)

	// For another process, room is made at once, and for the same one when nothing has been read for long.
	require.NoError(t, a.answered(call(begin(2)), limit/4))
	require.True(t, deaf.closed)
	require.Equal(t, int64(limit/4), a.answers)
	require.NoError(t, a.answered(call(other), limit/2))
	late := begin(1)
	require.ErrorIs(t, a.answered(call(late), limit/2), ErrTooManyAnswers)
	clock.Advance(deafFor)
	unread := call(late)
	require.NoError(t, a.answered(unread, limit/2))
	require.True(t, other.closed)
	require.False(t, late.closed)

	// What was read makes room.
	k := call(late)
	require.ErrorIs(t, a.answered(k, limit/2), ErrTooManyAnswers)
	a.ended(late.frameConn, unread.id)
	require.NoError(t, a.answered(k, limit/2))
}
