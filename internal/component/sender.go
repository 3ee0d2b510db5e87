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

// list makes a call one that may be evicted.
func (c *frameConn) list(k *arrival) {
	if k.listed {
		return
	}
	k.listed, k.older, k.newer = true, c.newest, nil
	if c.newest != nil {
		c.newest.newer = k
	} else {
		c.oldest = k
	}
	c.newest = k
}

func (c *frameConn) unlist(k *arrival) {
	if !k.listed {
		return
	}
	if k.older != nil {
		k.older.newer = k.newer
	} else {
		c.oldest = k.newer
	}
	if k.newer != nil {
		k.newer.older = k.older
	} else {
		c.newest = k.older
	}
	k.listed, k.older, k.newer = false, nil, nil
}
