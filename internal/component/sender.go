package component

// sender is a process that makes calls. Where it is not known, each connection stands for one.
type sender struct {
	connections int
	// bytes is its part in arrivals.open, answers that in arrivals.answers.
	bytes, answers int64
}

type senderKey struct {
	process process
	conn    *frameConn
}

func (c *frameConn) senderKey() senderKey {
	if c.peer.known() {
		return senderKey{process: c.peer}
	}
	return senderKey{conn: c}
}
