package component

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	googleproto "google.golang.org/protobuf/proto"
)

// rawClient says what it likes, and reads nothing unless it is told to.
type rawClient struct {
	*http2.Framer
	net.Conn
	next uint32
}

func (h *house) rawClient(t *testing.T) *rawClient {
	t.Helper()
	conn, err := net.Dial("unix", h.server.SocketPath())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = conn.Write([]byte(http2.ClientPreface))
	require.NoError(t, err)
	c := &rawClient{Framer: http2.NewFramer(conn, conn), Conn: conn, next: 1}
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, c.WriteSettings())
	return c
}

func (c *rawClient) begin(t *testing.T, method string, headers ...hpack.HeaderField) uint32 {
	t.Helper()
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	encoder.SetMaxDynamicTableSize(0)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: instanceHeader, Value: "raw"},
	}, headers...) {
		require.NoError(t, encoder.WriteField(f))
	}
	stream := c.next
	c.next += 2
	require.NoError(t, c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: b.Bytes(), EndHeaders: true}))
	return stream
}

func (c *rawClient) sendPart(t *testing.T, stream uint32, length, part int) {
	t.Helper()
	message := make([]byte, 5+part)
	binary.BigEndian.PutUint32(message[1:], uint32(length))
	for each := range slices.Chunk(message, 16<<10) {
		require.NoError(t, c.WriteData(stream, false, each))
	}
}

// send sends a whole message.
func (c *rawClient) send(t *testing.T, stream uint32, end bool, m googleproto.Message) {
	t.Helper()
	raw, err := googleproto.Marshal(m)
	require.NoError(t, err)
	require.NoError(t, c.WriteData(stream, end, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)))
}

// initialize makes a state store of the connection.
func (c *rawClient) initialize(t *testing.T) {
	t.Helper()
	stream := c.begin(t, proto.StateStore_Init_FullMethodName)
	c.send(t, stream, true, &proto.InitRequest{Metadata: &proto.MetadataRequest{}})
	require.Empty(t, c.answer(t, stream))
}

// answer waits for the end of a stream, and returns its message.
func (c *rawClient) answer(t *testing.T, stream uint32) (message string) {
	t.Helper()
	for {
		f, err := c.ReadFrame()
		require.NoError(t, err)
		headers, ok := f.(*http2.MetaHeadersFrame)
		if !ok || headers.StreamID != stream || !headers.StreamEnded() {
			continue
		}
		for _, field := range headers.Fields {
			if field.Name == "grpc-message" {
				message = field.Value
			}
		}
		return message
	}
}

// unfinished begins a message of a length and sends part of it.
func unfinished(t *testing.T, c *rawClient, method string, length, part int) {
	t.Helper()
	c.sendPart(t, c.begin(t, method), length, part)
}
