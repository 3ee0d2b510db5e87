package component

import (
	"log/slog"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/quiet"
)

// quietFor is how long nobody is told again of the same: there may be thousands in a second.
const quietFor = time.Second

// news is a line of the log that is not written more often than once in quietFor.
type news struct {
	told quiet.Line
	line *newsLine
}

type newsLine struct {
	conn       *frameConn
	text       string
	attributes []any
}

// tell prepares the line, unless it was written a moment ago.
func (n *news) tell(now time.Time, c *frameConn, text string, attributes ...any) {
	if unsaid, due := n.told.Due(now, quietFor); due {
		n.line = &newsLine{c, text, append(attributes, "before", unsaid)}
	}
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
