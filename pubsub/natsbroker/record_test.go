package natsbroker

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A record that comes late does not take the place of a newer one: a group that was removed and consumes again is owed events.
func TestALateRecordChangesNothing(t *testing.T) {
	b := &Broker{layout: newLayout("p", "b"), groups: map[string]groupRecord{}, learned: map[string]uint64{}}
	subject := b.layout.subject("g", groupHash("t", "g"))
	record := groupRecord{Topic: "t", Group: "g"}
	removed := record
	removed.Removed = true
	b.learn(subject, 7, []byte(marshal(record)))
	b.learn(subject, 5, []byte(marshal(removed)))
	require.Contains(t, b.groupsOf("t"), "g")
	b.learn(subject, 9, []byte(marshal(removed)))
	require.NotContains(t, b.groupsOf("t"), "g")
}
