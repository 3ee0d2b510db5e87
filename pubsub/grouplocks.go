package pubsub

import "context"

// groupLocks are held by who alone may work on what a group of a topic has on disk: the group itself from its first stream
// until everything is written down, the maintainer, or who removes it. Each is closed when it is released. They are guarded
// by the broker's lock.
type groupLocks map[groupName]chan struct{}

// take takes the group's lock, or returns what is closed when somebody else releases it.
func (l groupLocks) take(name groupName) (held chan struct{}) {
	held = l[name]
	if held == nil {
		l[name] = make(chan struct{})
	}
	return held
}

func (l groupLocks) release(name groupName) {
	close(l[name])
	delete(l, name)
}

// lockGroup waits until nobody else holds the group's lock: one that streams have, its last settlements being written down,
// or one that is swept. may is asked, with b.mu held, whether it may be taken at all.
func (b *Broker) lockGroup(ctx context.Context, name groupName, may func() error) error {
	for {
		b.mu.Lock()
		err := may()
		var held chan struct{}
		if err == nil {
			held = b.locks.take(name)
		}
		b.mu.Unlock()
		if err != nil || held == nil {
			return err
		}
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func anyway() error { return nil }

// tryLockGroup takes the group's lock if nobody holds it, nor is about to.
func (b *Broker) tryLockGroup(name groupName) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.groups[name.topic][name.group] == nil && b.locks.take(name) == nil
}

func (b *Broker) unlockGroup(name groupName) {
	b.mu.Lock()
	b.locks.release(name)
	b.mu.Unlock()
}
