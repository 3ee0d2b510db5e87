package crash

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// frame is a message that the fake server passes on as it is.
type frame struct{ raw []byte }

type frameCodec struct{}

func (frameCodec) Marshal(v any) ([]byte, error)     { return v.(*frame).raw, nil }
func (frameCodec) Unmarshal(raw []byte, v any) error { v.(*frame).raw = raw; return nil }
func (frameCodec) Name() string                      { return "proto" }

// early are the calls that the fake server answers before the process has heard of them, as a process would that answers
// before it has synced. Their answers are empty messages.
var early = map[string]bool{
	proto.StateStore_Set_FullMethodName: true,
	proto.PubSub_Publish_FullMethodName: true,
}

// startFakeServer serves a socket that passes everything on to another, but answers early. It ends with the test.
func startFakeServer(t *testing.T, to string) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fake")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	socket = filepath.Join(dir, "fake.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	forward := func(_ any, in grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(in)
		md, _ := metadata.FromIncomingContext(in.Context())
		// A connection of its own for each call: the process tells components apart by connection and header.
		conn, err := grpc.NewClient("unix://"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(frameCodec{})))
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithCancel(in.Context())
		defer cancel()
		ctx = metadata.NewOutgoingContext(ctx, md)
		if early[method] {
			var request frame
			if err := in.RecvMsg(&request); err != nil {
				return err
			}
			if err := in.SendMsg(&frame{}); err != nil {
				return err
			}
			// What becomes of it, nobody learns.
			_ = conn.Invoke(ctx, method, &request, &frame{})
			return nil
		}
		out, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
		if err != nil {
			return err
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			if pass(in, out) == nil {
				_ = out.CloseSend()
			}
		}()
		err = pass(out, in)
		cancel()
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodec(frameCodec{}), grpc.UnknownServiceHandler(forward), grpc.WaitForHandlers(false))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return socket
}

// pass copies messages until from ends, which is nil, or fails.
func pass(from interface{ RecvMsg(any) error }, to interface{ SendMsg(any) error }) error {
	for {
		var f frame
		err := from.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = to.SendMsg(&f)
		}
		if err != nil {
			return err
		}
	}
}

// What finds nothing must be able to find something: between the clients and the process stands one who says that
// writes are done before they are.
func TestAPlantedFaultIsFound(t *testing.T) {
	t.Parallel()
	bolt := startBolt(t)
	report, err := Run(t.Context(), Options{
		Bolt: bolt, Kills: 5, Socket: startFakeServer(t, filepath.Join(bolt.SocketDir, "bolt.sock")), Progress: os.Stdout,
	})
	require.NoError(t, err)
	require.NoError(t, report.Print(os.Stdout))
	require.Positive(t, report.Broken[LostWrite])
	require.Positive(t, report.Broken[LostEvent])
	require.Positive(t, report.Broken[Undelivered])
}

// Each way to break a promise is one that the books know.
func TestEachBrokenPromiseIsFound(t *testing.T) {
	type books struct {
		keys   *keyBook
		events *eventBook
	}
	a := &stream{life: 1}
	b := &stream{life: 1}
	later := &stream{life: 2}
	accept := func(b books, ids ...string) {
		b.events.trying(plainTopic, "p", ids...)
		b.events.published(ids...)
	}
	write := func(b books, key string, versions int) {
		for range versions {
			b.keys.acknowledged(b.keys.try(key), key)
		}
	}
	read := func(b books, key string, version int) { b.keys.read(key, versionOf(key, version)) }
	final := func(b books, ids ...string) {
		for _, id := range ids {
			b.events.audit(plainTopic, id, b.events.events[id].sequence)
		}
		b.events.final(nil)
	}
	everyone := func(b books, id, sequence string, number uint64) {
		for _, g := range []string{"single", "shared", "ordered"} {
			s := &stream{life: 1}
			b.events.deliver(g, s, id, sequence, number, 1)
			b.events.letGo(g, s, id, true)
		}
	}
	for name, test := range map[string]struct {
		plant func(books)
		want  map[Promise]int
	}{
		"nothing": {plant: func(b books) {
			write(b, "k", 3)
			read(b, "k", 3)
			b.keys.try("k")
			read(b, "k", 4)
			accept(b, "e1", "e2")
			everyone(b, "e1", "1", 1)
			everyone(b, "e2", "2", 2)
			final(b, "e1", "e2")
		}},
		"an older value":                 {plant: func(b books) { write(b, "k", 3); read(b, "k", 2) }, want: map[Promise]int{LostWrite: 1}},
		"a value that is gone":           {plant: func(b books) { write(b, "k", 3); b.keys.read("k", nil) }, want: map[Promise]int{LostWrite: 1}},
		"an unsure value that went back": {plant: func(b books) { write(b, "k", 1); b.keys.try("k"); read(b, "k", 2); read(b, "k", 1) }, want: map[Promise]int{LostWrite: 1}},
		"a value that was refused":       {plant: func(b books) { write(b, "k", 1); b.keys.failedToWrite(b.keys.try("k"), "k"); read(b, "k", 2) }, want: map[Promise]int{Undead: 1}},
		"an event that was refused": {plant: func(b books) {
			b.events.trying(plainTopic, "p", "e1")
			b.events.failed("e1")
			b.events.deliver("shared", a, "e1", "1", 1, 1)
		}, want: map[Promise]int{Undead: 1}},
		"a value that nobody wrote":   {plant: func(b books) { write(b, "k", 1); read(b, "k", 2) }, want: map[Promise]int{Invented: 1}},
		"a value with a changed byte": {plant: func(b books) { write(b, "k", 1); b.keys.read("k", append(versionOf("k", 1), 0)) }, want: map[Promise]int{ChangedBytes: 1}},
		"two increments to the same":  {plant: func(b books) { b.keys.incremented("c", 1); b.keys.incremented("c", 1) }, want: map[Promise]int{LostUpdate: 1}},
		"a counter that went back":    {plant: func(b books) { b.keys.counting("c"); b.keys.incremented("c", 1); b.keys.counted("c", 0, 1) }, want: map[Promise]int{LostWrite: 1}},
		"half a transaction":          {plant: func(b books) { b.keys.try("l", "r"); b.keys.final(map[string][]byte{"l": versionOf("l", 1)}) }, want: map[Promise]int{TornTransaction: 1}},
		"an event that is nowhere":    {plant: func(b books) { accept(b, "e1"); final(b) }, want: map[Promise]int{LostEvent: 1, Undelivered: 3}},
		"an event that one group never got": {plant: func(b books) {
			accept(b, "e1")
			everyone(b, "e1", "1", 1)
			delete(b.events.groups["shared"].delivered, "e1")
			final(b, "e1")
		}, want: map[Promise]int{Undelivered: 1}},
		"an event under two numbers": {plant: func(b books) {
			accept(b, "e1")
			b.events.deliver("shared", a, "e1", "1", 1, 1)
			b.events.deliver("shared", a, "e1", "2", 2, 1)
		}, want: map[Promise]int{StoredTwice: 1}},
		"an event that the topic has twice": {plant: func(b books) { accept(b, "e1"); everyone(b, "e1", "1", 1); final(b, "e1", "e1") }, want: map[Promise]int{StoredTwice: 1}},
		"an event of nobody":                {plant: func(b books) { b.events.deliver("shared", a, "e9", "1", 1, 1) }, want: map[Promise]int{Invented: 1}},
		"first deliveries out of order": {plant: func(b books) {
			accept(b, "e1", "e2")
			b.events.deliver("single", a, "e2", "2", 2, 1)
			b.events.deliver("single", a, "e1", "1", 1, 1)
		}, want: map[Promise]int{Overtaken: 1}},
		"a retry out of order is fine": {plant: func(b books) {
			accept(b, "e1", "e2")
			b.events.deliver("single", a, "e2", "2", 2, 1)
			b.events.deliver("single", a, "e1", "1", 1, 2)
		}},
		"published late, stored early": {plant: func(b books) {
			accept(b, "e1", "e2")
			b.events.audit(plainTopic, "e2", "1")
			b.events.audit(plainTopic, "e1", "2")
		}, want: map[Promise]int{Overtaken: 1}},
		"an ordered event that was overtaken": {plant: func(b books) {
			accept(b, "e1", "e2")
			b.events.deliver("ordered", a, "e1", "1", 1, 1)
			b.events.letGo("ordered", a, "e1", false)
			b.events.deliver("ordered", a, "e2", "2", 2, 1)
		}, want: map[Promise]int{Overtaken: 1}},
		"in two hands": {plant: func(k books) {
			accept(k, "e1")
			k.events.deliver("shared", a, "e1", "1", 1, 1)
			k.events.deliver("shared", b, "e1", "1", 1, 1)
		}, want: map[Promise]int{TwoHands: 1}},
		"in one hand after the other": {plant: func(k books) {
			accept(k, "e1")
			k.events.deliver("shared", a, "e1", "1", 1, 1)
			k.events.letGo("shared", a, "e1", false)
			k.events.deliver("shared", b, "e1", "1", 1, 2)
			k.events.deliver("shared", later, "e1", "1", 1, 2) // the process was killed in between
		}},
	} {
		t.Run(name, func(t *testing.T) {
			found := &findings{}
			test.plant(books{newKeyBook(found), newEventBook(found)})
			if len(test.want) == 0 {
				require.Empty(t, found.counts, found.examples)
			} else {
				require.Equal(t, test.want, found.counts, found.examples)
			}
		})
	}
}
