package faults

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

// http2Window is what a stream may send before the server gives it more (RFC 9113, 6.9.2).
const http2Window = 65535

// deafPatience is what a client that does not read has to send what it will.
const deafPatience = 3 * time.Second

// rawClient speaks HTTP/2 with dapr-bolt as no library would. It sends as much as the server's windows let it, and reads
// what it is answered, but for its meaning.
type rawClient struct {
	conn net.Conn
	read sync.WaitGroup
	deaf atomic.Bool

	writing sync.Mutex
	framer  *http2.Framer
	headers bytes.Buffer
	encoder *hpack.Encoder
	next    uint32

	mu      sync.Mutex
	changed *sync.Cond
	windows map[uint32]int
	ended   map[uint32]bool
	gone    bool
	// answers are the texts of the errors, and how often each came.
	answers map[string]int
}

func newRawClient(t *testing.T, b *harness.Bolt) *rawClient {
	t.Helper()
	conn, err := net.Dial("unix", socketOf(b))
	require.NoError(t, err)
	c := &rawClient{
		conn: conn, framer: http2.NewFramer(conn, conn), next: 1,
		windows: make(map[uint32]int), ended: make(map[uint32]bool), answers: make(map[string]int),
	}
	c.changed = sync.NewCond(&c.mu)
	c.encoder = hpack.NewEncoder(&c.headers)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = conn.Write([]byte(http2.ClientPreface))
	require.NoError(t, err)
	require.NoError(t, c.framer.WriteSettings())
	c.read.Go(c.receive)
	return c
}

func (c *rawClient) close() {
	_ = c.conn.Close()
	c.read.Wait()
}

// deafen lets the client read no more, or one more frame. It gives up when the server reads no more either.
func (c *rawClient) deafen() {
	if c.deaf.CompareAndSwap(false, true) {
		_ = c.conn.SetWriteDeadline(time.Now().Add(deafPatience))
	}
}

func (c *rawClient) receive() {
	defer c.note(func() { c.gone = !c.deaf.Load() })
	for !c.deaf.Load() {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		stream := f.Header().StreamID
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				// Not from here: the server may wait for this to be read before it reads on.
				c.read.Go(func() {
					c.writing.Lock()
					defer c.writing.Unlock()
					_ = c.framer.WriteSettingsAck()
				})
			}
		case *http2.WindowUpdateFrame:
			c.note(func() { c.windows[stream] += int(f.Increment) })
		case *http2.RSTStreamFrame:
			c.note(func() { c.ended[stream] = true; c.answers[f.ErrCode.String()]++ })
		case *http2.MetaHeadersFrame:
			c.note(func() {
				for _, field := range f.Fields {
					if field.Name == "grpc-message" {
						c.answers[field.Value]++
					}
				}
				if f.StreamEnded() {
					c.ended[stream] = true
				}
			})
		}
	}
}

func (c *rawClient) note(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.changed.Broadcast()
}

// call begins one, with more headers, and returns its stream; 0: the connection is gone.
func (c *rawClient) call(method string, more ...hpack.HeaderField) uint32 {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.headers.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method},
		{Name: ":authority", Value: "x"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
		{Name: "x-component-instance", Value: "hostile"},
	}, more...) {
		if err := c.encoder.WriteField(f); err != nil {
			return 0
		}
	}
	stream := c.next
	c.next += 2
	c.note(func() { c.windows[stream] = http2Window })
	const most = 16 << 10
	block := c.headers.Bytes()
	first := block[:min(most, len(block))]
	block = block[len(first):]
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: len(block) == 0})
	for len(block) > 0 && err == nil {
		part := block[:min(most, len(block))]
		block = block[len(part):]
		err = c.framer.WriteContinuation(stream, len(block) == 0, part)
	}
	if err != nil {
		return 0
	}
	return stream
}

// send sends bytes in frames of a size, until the stream or the connection is ended; it reports whether they were all sent.
func (c *rawClient) send(stream uint32, data []byte, size int) bool {
	for len(data) > 0 {
		c.mu.Lock()
		for c.windows[stream] == 0 && !c.ended[stream] && !c.gone {
			c.changed.Wait()
		}
		n := min(len(data), c.windows[stream], 64*size)
		c.windows[stream] -= n
		over := c.ended[stream] || c.gone
		c.mu.Unlock()
		if over {
			return false
		}
		// Many at once: to write each alone takes longer than to read it.
		var frames bytes.Buffer
		framer := http2.NewFramer(&frames, nil)
		for part := data[:n]; len(part) > 0; {
			m := min(len(part), size)
			if err := framer.WriteData(stream, false, part[:m]); err != nil {
				return false
			}
			part = part[m:]
		}
		data = data[n:]
		c.writing.Lock()
		_, err := c.conn.Write(frames.Bytes())
		c.writing.Unlock()
		if err != nil {
			return false
		}
	}
	return true
}

// claim begins a message of a length.
func (c *rawClient) claim(stream uint32, length int) bool {
	return c.send(stream, []byte{0, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}, 5)
}

// answered returns how many answers had a text in them.
func (c *rawClient) answered(text string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for answer, times := range c.answers {
		if strings.Contains(answer, text) {
			n += times
		}
	}
	return n
}
