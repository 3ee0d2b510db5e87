package component

import (
	"errors"
	"fmt"
	"time"
)

// ErrTooManyAnswers refuses an answer for which Options.MaxRequestBytes leave no room beside those that are not read yet.
var ErrTooManyAnswers = errors.New("too many answers at once")

const (
	// smallAnswer is what an answer may have, in bytes, that is not counted: MaxCalls bounds those.
	smallAnswer = 4 << 10
	// deafFor is how long a connection whose client reads none of its answers is left open when room is needed.
	deafFor = 10 * time.Second
)

// answered counts an answer until its end is written: gRPC keeps it for a client that does not read. Where there is no
// room, the connection is closed that has most left unread, of the process that has, if that is another process than
// the one that called, or if nothing was read there for deafFor. Otherwise the call is refused.
func (a *arrivals) answered(k *arrival, size int64) error {
	if size <= smallAnswer {
		return nil
	}
	var deaf []*frameConn
	a.mu.Lock()
	for k.state == callOpen && a.answers > 0 && a.answers+size > a.limit {
		worst := a.deafest()
		if worst.sender == k.conn.sender && a.clock.Since(worst.heard) < deafFor {
			err := fmt.Errorf("%w: %d bytes are not read yet, this one has %d; --max-request-bytes allows no more than %d",
				ErrTooManyAnswers, a.answers, size, a.limit)
			a.settle()
			closeAll(deaf)
			return err
		}
		a.closings.tell(a.clock.Now(), worst, closedUnread, "bytes", worst.answers)
		for _, unread := range worst.calls {
			a.unanswered(unread)
		}
		deaf = append(deaf, worst)
	}
	if k.state == callOpen {
		if k.conn.answers == 0 {
			k.conn.heard = a.clock.Now()
		}
		k.answer += size
		a.chargeAnswer(k.conn, size)
	}
	a.settle()
	closeAll(deaf)
	return nil
}

func closeAll(conns []*frameConn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// unanswered takes off what answered has counted for a call.
func (a *arrivals) unanswered(k *arrival) {
	if k.answer > 0 {
		k.conn.heard = a.clock.Now()
		a.chargeAnswer(k.conn, -k.answer)
		k.answer = 0
	}
}

func (a *arrivals) chargeAnswer(c *frameConn, bytes int64) {
	a.answers += bytes
	c.answers += bytes
	c.sender.answers += bytes
}

// deafest returns the connection that has most left unread, of the process that has.
func (a *arrivals) deafest() *frameConn {
	return a.most(func(c, d *frameConn) bool {
		if c.sender != d.sender {
			return c.sender.answers > d.sender.answers
		}
		return c.answers > d.answers
	})
}
