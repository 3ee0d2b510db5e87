package component

// closedUnread is what the log says of a client that is cut off for it.
const closedUnread = "closed a connection whose client does not read what it is answered"

// refuse ends a call that was let in beyond what is allowed.
func (a *arrivals) refuse(k *arrival) {
	a.mu.Lock()
	defer a.settle()
	if k.state == callOpen {
		a.evict(k, a.tooMany)
	}
}

func (a *arrivals) evictOldest(reason error) bool {
	k := a.oldest()
	if k != nil {
		a.evict(k, reason)
	}
	return k != nil
}

func (a *arrivals) evict(k *arrival, reason error) {
	k.conn.unlist(k)
	a.open.calls--
	a.charge(k, -k.cost())
	a.leave(k, 1, k.cost())
	k.state, k.evicted = callEvicted, reason
	k.endContext()
	a.evictions.tell(a.clock.Now(), k.conn, "ended a call whose request was still arriving", "method", k.method, "bytes", k.cost(), "reason", reason)
}

// settle makes room, unlocks, and does what cannot be done under the lock.
func (a *arrivals) settle() {
	for a.open.bytes > a.limit {
		k := a.oldest()
		if k == nil || k.cost() == a.open.bytes && a.open.bytes <= aloneBytes {
			break
		}
		a.evict(k, a.tooLarge)
	}
	var idle *frameConn
	if a.left.calls > a.maxCalls || a.left.bytes > a.limit {
		idle = a.unread()
	}
	evictions, closings := a.evictions.take(), a.closings.take()
	a.mu.Unlock()
	evictions.log(a.log)
	closings.log(a.log)
	if idle != nil {
		_ = idle.Close()
	}
}

// unread returns the connection that has most of what is left, by what there is too much of; nil: none has anything.
func (a *arrivals) unread() *frameConn {
	worst := a.most(func(c, d *frameConn) bool {
		if a.left.calls > a.maxCalls {
			return c.left.calls > d.left.calls
		}
		return c.left.bytes > d.left.bytes
	})
	a.closings.tell(a.clock.Now(), worst, closedUnread, "calls", worst.left.calls, "bytes", worst.left.bytes)
	return worst
}

// oldest is the call to evict next; nil: there is none.
func (a *arrivals) oldest() *arrival {
	most := a.most(func(c, d *frameConn) bool { return c.oldest != nil && (d.oldest == nil || c.hasMoreThan(d)) })
	if most == nil {
		return nil
	}
	return most.oldest
}

// most returns the connection of which no other one is more; nil: there is none. It takes some microseconds for each
// hundred connections.
func (a *arrivals) most(more func(c, d *frameConn) bool) (most *frameConn) {
	for c := range a.conns {
		if most == nil || more(c, most) {
			most = c
		}
	}
	return most
}

// hasMoreThan compares the processes first: one that has much is not to hide in many connections.
func (c *frameConn) hasMoreThan(d *frameConn) bool {
	if c.sender != d.sender {
		return c.sender.bytes > d.sender.bytes
	}
	return c.bytes > d.bytes
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
