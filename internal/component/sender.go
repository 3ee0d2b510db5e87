package component

import "github.com/dapr-bolt/dapr-bolt/internal/access"

// sender is a process that makes calls. Where it is not known, each connection stands for one.
type sender struct {
	connections int
	// bytes is its part in arrivals.open, answers that in arrivals.answers.
	bytes, answers int64
}

type senderKey struct {
	process access.Process
	conn    *frameConn
}

func (c *frameConn) senderKey() senderKey {
	if c.peer.Known() {
		return senderKey{process: c.peer}
	}
	return senderKey{conn: c}
}
