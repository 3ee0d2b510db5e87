package component

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	googleproto "google.golang.org/protobuf/proto"
)

// rawCodec sends bytes as they are, whether or not they are a message.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)     { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(raw []byte, v any) error { *v.(*[]byte) = raw; return nil }
func (rawCodec) Name() string                      { return "proto" }

// fuzzed are all methods that a client can call.
var fuzzed = func() (methods []string) {
	for _, s := range []grpc.ServiceDesc{
		proto.StateStore_ServiceDesc, proto.TransactionalStateStore_ServiceDesc, proto.QueriableStateStore_ServiceDesc,
		proto.TransactionalStoreMultiMaxSize_ServiceDesc, proto.PubSub_ServiceDesc,
	} {
		for _, m := range s.Methods {
			methods = append(methods, "/"+s.ServiceName+"/"+m.MethodName)
		}
	}
	return append(methods, proto.PubSub_PullMessages_FullMethodName, "/no.such.Service/Method")
}()

// Whatever bytes come as a request of whatever method, by whoever says to be whatever component: there is an answer, it
// is not that something broke, and others are served.
func FuzzRequests(f *testing.F) {
	marshal := func(m googleproto.Message) []byte {
		raw, err := googleproto.Marshal(m)
		require.NoError(f, err)
		return raw
	}
	deep := strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000)
	huge := make(map[string]string)
	for i := range 2000 {
		huge[fmt.Sprint(i)] = "x"
	}
	for _, m := range []googleproto.Message{
		&proto.InitRequest{}, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"database": "../x", "cleanupInterval": "soon"}}},
		&proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"dedupBy": "fields:a.b", "backOff": "1s,,", "maxBytes": "-1"}}},
		&proto.PubSubInitRequest{Metadata: &proto.MetadataRequest{Properties: huge}},
		&proto.SetRequest{}, &proto.SetRequest{Key: "k", Value: []byte(deep), ContentType: "application/json", Metadata: map[string]string{"ttlInSeconds": "-5"}},
		&proto.SetRequest{Key: "k", Value: []byte("{"), Etag: &proto.Etag{Value: "x"}, Options: &proto.StateOptions{Concurrency: 99, Consistency: -1}},
		&proto.TransactionalStateRequest{Operations: []*proto.TransactionalStateOperation{{}, {Request: &proto.TransactionalStateOperation_Delete{}}}},
		&proto.BulkSetRequest{Items: []*proto.SetRequest{{}, {Key: "k"}, {Key: "k"}}}, &proto.BulkGetRequest{Items: []*proto.GetRequest{{}}},
		&proto.QueryRequest{}, &proto.QueryRequest{Query: &proto.Query{Sort: []*proto.Sorting{{}}, Pagination: &proto.Pagination{Limit: -1, Token: "x"}}},
		&proto.PublishRequest{}, &proto.PublishRequest{Topic: "t.*", Data: []byte(deep)},
		&proto.PublishRequest{Topic: "t", Data: []byte(deep), Metadata: map[string]string{"deliverAt": "now", "deliverAfter": "-1s", "eventID": "", "ttlInSeconds": "x"}},
		&proto.BulkPublishRequest{Topic: "t", Entries: []*proto.BulkMessageEntry{{}, {EntryId: "1", Metadata: huge}}},
		&proto.PullMessagesRequest{}, &proto.PullMessagesRequest{Topic: &proto.Topic{Name: ">", Metadata: map[string]string{"maxAckPending": "0"}}},
		&proto.PullMessagesRequest{Topic: &proto.Topic{Name: "t"}, AckMessageId: "x", AckError: &proto.AckMessageError{}},
	} {
		for method := range fuzzed {
			f.Add(uint8(method), marshal(m), "a")
		}
	}
	for method := range fuzzed {
		f.Add(uint8(method), []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, "")                   // a field of 4 GiB that is not there
		f.Add(uint8(method), []byte{0x0a, 0x02, 0xff, 0xfe}, "a\xff\x00")                      // no UTF-8
		f.Add(uint8(method), []byte(strings.Repeat("\x0b", 20000)), strings.Repeat("a", 5000)) // groups in groups
	}

	// One house for all: what one request leaves behind, the next one meets.
	h := newHouse(f)
	honest, err := grpc.NewClient("unix://"+filepath.Join(h.dir, "s", "bolt.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, honest.Close()) })
	store := proto.NewStateStoreClient(honest)
	named := metadata.AppendToOutgoingContext(context.Background(), instanceHeader, "honest")
	_, err = store.Init(named, &proto.InitRequest{Metadata: &proto.MetadataRequest{Properties: map[string]string{"bucket": "honest"}}})
	require.NoError(f, err)
	_, err = store.Set(named, &proto.SetRequest{Key: "k", Value: []byte("v")})
	require.NoError(f, err)

	f.Fuzz(func(t *testing.T, method uint8, raw []byte, component string) {
		conn, err := grpc.NewClient("unix://"+filepath.Join(h.dir, "s", "bolt.sock"),
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
		require.NoError(t, err)
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		name := fuzzed[int(method)%len(fuzzed)]
		ctx = metadata.AppendToOutgoingContext(ctx, instanceHeader+"-bin", component, instanceHeader, printable(component))
		var answer []byte
		if name == proto.PubSub_PullMessages_FullMethodName {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
			require.NoError(t, err)
			_ = stream.SendMsg(&raw)
			_ = stream.SendMsg(&raw)
			require.NoError(t, stream.CloseSend())
			for err == nil {
				err = stream.RecvMsg(&answer)
			}
		} else {
			err = conn.Invoke(ctx, name, &raw, &answer)
		}
		if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded ||
			code == codes.Internal && strings.Contains(err.Error(), "panicked") {
			t.Errorf("%s: %v\n%s", name, err, h.log.String())
		}
		got, err := store.Get(named, &proto.GetRequest{Key: "k"})
		require.NoError(t, err)
		require.Equal(t, "v", string(got.GetData()), "another store's value")
	})
}

// printable makes a header's value of any text.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}
