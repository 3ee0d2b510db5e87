package cluster_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

// slowWire stands between a client and a server. Once the client has said something with a text in it, which the server hears,
// nothing more goes either way until the wire is mended.
type slowWire struct {
	listener net.Listener
	text     string
	wires    sync.WaitGroup
	// slow is closed when the text has passed, stuck when the client has asked what became of it, or said it again.
	slow, stuck, mended chan struct{}
}

// startSlowWire returns one to an address, which is closed with the test.
func startSlowWire(t *testing.T, address, text string) *slowWire {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &slowWire{listener: listener, text: text, slow: make(chan struct{}), stuck: make(chan struct{}), mended: make(chan struct{})}
	w.wires.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", address)
			if err != nil {
				_ = client.Close()
				continue
			}
			w.wires.Go(func() { w.say(server, client) })
			w.wires.Go(func() { w.hear(client, server) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		w.wires.Wait()
	})
	return w
}

func (w *slowWire) say(server, client net.Conn) {
	defer server.Close()
	lines := bufio.NewReader(client)
	for slow := false; !slow; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		if slow = bytes.Contains(line, []byte(w.text)); slow {
			close(w.slow)
		}
		if _, err := server.Write(line); err != nil {
			return
		}
	}
	var held []byte
	for !bytes.Contains(held, []byte(w.text)) && !bytes.Contains(held, []byte("STREAM.MSG.GET")) {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		held = append(held, line...)
	}
	close(w.stuck)
	<-w.mended
	_, _ = io.Copy(server, io.MultiReader(bytes.NewReader(held), lines))
}

func (w *slowWire) hear(client, server net.Conn) {
	defer client.Close()
	for buffer := make([]byte, 64<<10); ; {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-w.slow:
			<-w.mended
		default:
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// onSlowWire opens two brokers on a server, of which the first one reaches it over a wire that is slow once it has said text.
func onSlowWire(t *testing.T, text string) (e *events, wire *slowWire, mend func()) {
	servers := harness.StartNATS(t, harness.ForTest(t), harness.ClusterOptions{Servers: 1})
	e = &events{t: t, nats: servers, opts: brokerOptions(t, servers)}
	address, err := url.Parse(servers.URL())
	require.NoError(t, err)
	wire = startSlowWire(t, address.Host, text)
	slow := e.opts
	slow.URL = "nats://" + wire.listener.Addr().String()
	mend = sync.OnceFunc(func() { close(wire.mended) })
	e.b = openBroker(t, e.opts)
	e.a = openBroker(t, slow)
	t.Cleanup(mend)
	return e, wire, mend
}

// A process that hears nothing from the server when it puts a retry off asks again, and does not put off what somebody wants now
// meanwhile.
func TestARetryNowOutlivesALateAnswer(t *testing.T) {
	t.Parallel()
	e, wire, mend := onSlowWire(t, "-NAK {")
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxAckPending: 1, BackOff: pubsub.BackOff{time.Hour}})
	e.publish(e.b, "t", byID, message("1", "x"))
	first := e.next(s)
	first.Nack("not now")
	<-wire.stuck // after the time that a request may take
	require.NoError(t, e.b.RetryNow(t.Context(), "t", "g", first.Event.Sequence))
	mend()
	again := e.next(s)
	require.Equal(t, "1", again.Event.ID)
	require.Equal(t, 2, again.Count)
	again.Ack()
}

// A process that hears nothing from the server when it gives back what a stream had in flight asks again, and takes the event from
// nobody who got it meanwhile.
func TestALateAnswerTakesAnEventFromNobody(t *testing.T) {
	t.Parallel()
	e, wire, mend := onSlowWire(t, "-NAK")
	s := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxAckPending: 1})
	e.publish(e.b, "t", byID, message("1", "x"))
	e.next(s)
	other := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxAckPending: 2})
	s.Close()
	require.Equal(t, "1", e.next(other).Event.ID)
	<-wire.stuck
	mend()
	require.NoError(t, e.a.Close(t.Context()))
	e.publish(e.b, "t", byID, message("2", "y"))
	require.Equal(t, "2", e.next(other).Event.ID)
}

// behindClock is that of a node on which it is some seconds earlier.
type behindClock struct{ clockwork.Clock }

func (c behindClock) Now() time.Time { return c.Clock.Now().Add(-3 * time.Second) }

// A retry whose time has just come, which a process does not know yet, is taken from nobody who has got it.
func TestARetryNowInTheLastMomentTakesAnEventFromNobody(t *testing.T) {
	t.Parallel()
	e := oneServerAndClock(t, behindClock{clockwork.NewRealClock()})
	s := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxAckPending: 1, BackOff: pubsub.BackOff{time.Second}})
	e.publish(e.b, "t", byID, message("1", "x"))
	e.next(s).Nack("not now")
	again := e.next(s)
	if err := e.a.RetryNow(t.Context(), "t", "g", again.Event.Sequence); err != nil {
		require.ErrorIs(t, err, pubsub.ErrInFlight) // on a busy machine, its clock says so too by now
	}
	other := e.subscribe(e.a, pubsub.SubscribeOptions{Topic: "t", Group: "g"})
	e.publish(e.b, "t", byID, message("2", "y"))
	require.Equal(t, "2", e.next(other).Event.ID)
	again.Ack()
}

// It is the same for what somebody wants now.
func TestALateRetryNowTakesAnEventFromNobody(t *testing.T) {
	t.Parallel()
	e, wire, mend := onSlowWire(t, "-NAK")
	s := e.subscribe(e.b, pubsub.SubscribeOptions{Topic: "t", Group: "g", MaxAckPending: 2, BackOff: pubsub.BackOff{time.Hour}})
	e.publish(e.b, "t", byID, message("1", "x"))
	first := e.next(s)
	first.Nack("not now")
	require.Eventually(t, func() bool {
		retries, _, err := e.b.Retries(t.Context(), "t", pubsub.RetryPlace{}, 1)
		return err == nil && len(retries) == 1 && !retries[0].InFlight
	}, waitLong, waitStep)
	retried := make(chan error, 1)
	go func() { retried <- e.a.RetryNow(t.Context(), "t", "g", first.Event.Sequence) }()
	require.Equal(t, "1", e.next(s).Event.ID)
	<-wire.stuck
	mend()
	require.NoError(t, <-retried)
	e.publish(e.b, "t", byID, message("2", "y"))
	require.Equal(t, "2", e.next(s).Event.ID)
}
