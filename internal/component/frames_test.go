package component

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"pgregory.net/rapid"

	"github.com/dapr-bolt/dapr-bolt/internal/access"
)

// recorded is a connection whose client has sent all it will, and that keeps what is written.
type recorded struct {
	net.Conn
	sent    *bytes.Reader
	written bytes.Buffer
}

func (r *recorded) Read(p []byte) (int, error)  { return r.sent.Read(p) }
func (r *recorded) Write(p []byte) (int, error) { return r.written.Write(p) }
func (r *recorded) Close() error                { return nil }

func testArrivals(limit int64, calls int) *arrivals {
	return newArrivals(limit, calls, slog.New(slog.DiscardHandler), clockwork.NewFakeClock())
}

func anyFrame(t *rapid.T) (header frame, wire []byte) {
	header = frame{
		length: rapid.Int64Range(0, 300).Draw(t, "length"),
		kind:   http2.FrameType(rapid.ByteRange(0, 10).Draw(t, "kind")),
		flags:  http2.Flags(rapid.Byte().Draw(t, "flags")),
		stream: rapid.Uint32Range(0, 1<<31-1).Draw(t, "stream"),
	}
	var b bytes.Buffer
	framer := http2.NewFramer(&b, nil)
	framer.AllowIllegalWrites = true
	if err := framer.WriteRawFrame(header.kind, header.flags, header.stream, make([]byte, header.length)); err != nil {
		t.Fatal(err)
	}
	return header, b.Bytes()
}

func TestFramesAreFoundHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want, got []frame
		var wire []byte
		for range rapid.IntRange(0, 20).Draw(t, "frames") {
			f, b := anyFrame(t)
			want, wire = append(want, f), append(wire, b...)
		}
		var s frames
		for len(wire) > 0 {
			n := min(len(wire), rapid.IntRange(1, 400).Draw(t, "piece"))
			for f, rest, ok := s.next(wire[:n]); ok; f, rest, ok = s.next(rest) {
				got = append(got, f)
			}
			wire = wire[n:]
		}
		require.Equal(t, want, got)
		require.True(t, s.between())
	})
}

// FuzzFrames sends anything at all: the bytes come out as they went in, whatever is found in them.
func FuzzFrames(f *testing.F) {
	var wire bytes.Buffer
	wire.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&wire, nil)
	for _, err := range []error{
		framer.WriteSettings(),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndHeaders: true}),
		framer.WriteDataPadded(1, false, []byte("request"), make([]byte, 9)),
		framer.WriteData(1, true, nil),
		framer.WriteRSTStream(1, http2.ErrCodeCancel),
	} {
		require.NoError(f, err)
	}
	f.Add(wire.Bytes(), 1)
	f.Add(wire.Bytes(), 9)
	f.Add(append(wire.Bytes(), wire.Bytes()[24:]...), 1<<16)
	f.Fuzz(func(t *testing.T, sent []byte, piece int) {
		a := testArrivals(1<<20, 10)
		under := &recorded{sent: bytes.NewReader(sent)}
		c := newFrameConn(under, a, access.Process{})
		var got []byte
		var err error
		for buffer := make([]byte, 1+uint(piece)%(1<<17)); err == nil; {
			var n int
			n, err = c.Read(buffer)
			got = append(got, buffer[:n]...)
		}
		require.True(t, bytes.HasPrefix(sent, got))
		if err == io.EOF {
			require.Len(t, got, len(sent))
		}
		_, err = c.Write(sent)
		require.NoError(t, err)
		require.Equal(t, sent, append([]byte{}, under.written.Bytes()...))
		require.NoError(t, c.Close())
		require.Equal(t, tally{}, a.open)
		require.Equal(t, tally{}, a.left)
		require.Empty(t, a.conns)
		require.Empty(t, a.senders)
	})
}

func TestANumberOfAStreamIsNotUsedAgain(t *testing.T) {
	var wire bytes.Buffer
	wire.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&wire, nil)
	for _, stream := range []uint32{1, 5, 3} {
		require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x82}, EndHeaders: true}))
	}
	c := newFrameConn(&recorded{sent: bytes.NewReader(wire.Bytes())}, testArrivals(1<<20, 10), access.Process{})
	_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	require.EqualError(t, err, "HTTP/2: stream 3 begins after stream 5")
}
