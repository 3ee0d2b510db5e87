package component

import (
	"log/slog"
	"time"
)

// quietFor is how long nobody is told again of the same: there may be thousands in a second.
const quietFor = time.Second

// news is a line of the log that is not written more often than once in quietFor.
type news struct {
	last   time.Time
	unsaid int
	line   *newsLine
}

type newsLine struct {
	conn       *frameConn
	text       string
	attributes []any
}

// due says whether a line may be written now; otherwise it is counted.
func (n *news) due(now time.Time) bool {
	if now.Sub(n.last) < quietFor {
		n.unsaid++
		return false
	}
	n.last = now
	return true
}

func (n *news) add(c *frameConn, text string, attributes ...any) {
	n.line = &newsLine{c, text, append(attributes, "before", n.unsaid)}
	n.unsaid = 0
}

func (n *news) take() *newsLine {
	line := n.line
	n.line = nil
	return line
}

func (l *newsLine) log(log *slog.Logger) {
	if l != nil {
		log.Warn(l.text, append(l.attributes, "from", l.conn.from())...)
	}
}
