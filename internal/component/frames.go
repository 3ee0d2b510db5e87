package component

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

// readBuffer is what is asked of the system at once, as gRPC does by itself.
const readBuffer = 32 << 10

// frame is the header of an HTTP/2 frame (RFC 9113, 4.1).
type frame struct {
	length int64
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
}

// ends says whether who sent the frame sends no more on its stream.
func (f frame) ends() bool {
	switch f.kind {
	case http2.FrameData:
		return f.flags.Has(http2.FlagDataEndStream)
	case http2.FrameHeaders:
		return f.flags.Has(http2.FlagHeadersEndStream)
	default:
		return f.kind == http2.FrameRSTStream
	}
}

// frames finds the frames in one direction of a connection. The zero value begins with a frame.
type frames struct {
	// skip is how much comes before the next frame, header what there is of that.
	skip   int64
	header [9]byte
	have   int
}

// next returns the first frame whose header is complete in b, and what of b follows the header; false: there is none.
func (s *frames) next(b []byte) (f frame, rest []byte, ok bool) {
	n := min(s.skip, int64(len(b)))
	s.skip -= n
	b = b[n:]
	copied := copy(s.header[s.have:], b)
	if s.have += copied; s.have < len(s.header) {
		return frame{}, nil, false
	}
	h := &s.header
	f = frame{
		length: int64(h[0])<<16 | int64(h[1])<<8 | int64(h[2]),
		kind:   http2.FrameType(h[3]),
		flags:  http2.Flags(h[4]),
		stream: binary.BigEndian.Uint32(h[5:]) &^ (1 << 31),
	}
	s.have, s.skip = 0, f.length
	return f, b[copied:], true
}

// between says whether all of the last frame has been seen, and nothing of the next.
func (s *frames) between() bool { return s.skip == 0 && s.have == 0 }

// frameConn is a connection that sees the frames which gRPC reads and writes, and tells arrivals of them. The bytes stay
// what they are.
//
// It knows the frame that gRPC is at because gRPC reads from it without a buffer of its own (grpc.ReadBufferSize(0)):
// the buffer is here.
type frameConn struct {
	net.Conn
	arrivals *arrivals
	peer     access.Process
	onClose  func()
	buffered *bufio.Reader

	// What follows belongs to the goroutine that reads.

	in frames
	// failed is the error that gRPC has got: it reads no more, and what it read with is let go. Contexts outlast their
	// connections.
	failed error
	// current is the call that began last, of headerBytes until now.
	current     *arrival
	headerBytes int64
	// reset is the stream that the client has ended, refused a call that is to end, when gRPC is through with the frame.
	reset   uint32
	refused *arrival

	// out belongs to the goroutine that writes.
	out frames

	// What follows is guarded by arrivals.mu.

	closed bool
	sender *sender
	calls  map[uint32]*arrival
	// oldest and newest are the ends of the list of the calls that may be evicted.
	oldest, newest *arrival
	// bytes is this connection's part in arrivals.open, answers that in arrivals.answers.
	bytes, answers int64
	// heard is when the end of one of its answers was written, or the first of those that are not was there.
	heard time.Time
	// left is this connection's part in arrivals.left.
	left tally
}

func newFrameConn(c net.Conn, a *arrivals, peer access.Process) *frameConn {
	f := &frameConn{Conn: c, arrivals: a, buffered: bufio.NewReaderSize(c, readBuffer), peer: peer, onClose: func() {}}
	f.in.skip = int64(len(http2.ClientPreface))
	return f
}

// Read implements net.Conn.
func (c *frameConn) Read(p []byte) (int, error) {
	if (c.reset != 0 || c.refused != nil) && c.in.between() {
		c.handled()
	}
	if c.failed != nil {
		return 0, c.failed
	}
	n, err := c.buffered.Read(p)
	for f, rest, ok := c.in.next(p[:n]); ok && err == nil; f, rest, ok = c.in.next(rest) {
		err = c.read(f)
	}
	if err != nil {
		c.failed, c.buffered, c.current = err, nil, nil
	}
	return n, err
}

// read is called when gRPC has the frame's header, before it has the payload. An error ends the connection.
func (c *frameConn) read(f frame) error {
	switch f.kind {
	case http2.FrameHeaders:
		// Also gRPC wants the numbers to rise, but it does not count a stream whose headers it has refused: its end would be
		// taken for that of the next one of the same number.
		if c.current != nil && f.stream <= c.current.id {
			return fmt.Errorf("HTTP/2: stream %d begins after stream %d", f.stream, c.current.id)
		}
		c.headerBytes = f.length
		c.current = c.arrivals.began(c, f)
	case http2.FrameContinuation:
		c.headerBytes += f.length
	case http2.FrameData:
		c.arrivals.data(c, f)
	case http2.FrameRSTStream:
		c.reset = f.stream
	}
	return nil
}

// handled ends what was to end with the last frame: by now gRPC has handled it.
func (c *frameConn) handled() {
	if c.reset != 0 {
		c.arrivals.ended(c, c.reset)
		c.reset = 0
	}
	if c.refused != nil {
		c.arrivals.refuse(c.refused)
		c.refused = nil
	}
}

// Write implements net.Conn.
func (c *frameConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	for f, rest, ok := c.out.next(p[:n]); ok; f, rest, ok = c.out.next(rest) {
		if f.ends() {
			c.arrivals.ended(c, f.stream)
		}
	}
	return n, err
}

// Close implements net.Conn.
func (c *frameConn) Close() error {
	c.arrivals.closed(c)
	c.onClose()
	return c.Conn.Close()
}

// from names the process at the other end.
func (c *frameConn) from() string {
	return c.peer.String()
}
