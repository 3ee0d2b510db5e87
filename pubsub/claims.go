package pubsub

// claims are groups that have no queue, and get none before release: whoever holds them may change their retries behind
// the back of those who consume.
type claims struct {
	broker *Broker
	held   map[queueName]*queue
}

// claim says whether the group is held.
func (c *claims) claim(topic, group string) bool {
	name := queueName{topic, group}
	b := c.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.held[name] != nil {
		return true
	}
	if b.queues[topic][group] != nil || b.ending[name] != nil {
		return false
	}
	if c.held == nil {
		c.held = map[queueName]*queue{}
	}
	// A queue that starts waits for the one that is ending, whatever that is.
	q := &queue{topic: topic, group: group, done: make(chan struct{})}
	c.held[name], b.ending[name] = q, q
	return true
}

func (c *claims) release() {
	b := c.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, q := range c.held {
		close(q.done)
		if b.ending[name] == q {
			delete(b.ending, name)
		}
	}
}
