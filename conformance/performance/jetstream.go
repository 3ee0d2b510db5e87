package performance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// topics holds the topics of the whole run; JetStream must be told of them in advance.
const topics = "bench.>"

const natsStart = 10 * time.Second

func serveJetStream(syncAlways bool) func(context.Context, *world) (map[string]string, error) {
	return func(_ context.Context, w *world) (_ map[string]string, err error) {
		dir, err := w.folder("jetstream")
		if err != nil {
			return nil, err
		}
		s, err := server.NewServer(&server.Options{
			Host:       "127.0.0.1",
			Port:       server.RANDOM_PORT,
			JetStream:  true,
			StoreDir:   dir,
			SyncAlways: syncAlways,
			NoLog:      true,
			NoSigs:     true,
			MaxPayload: 4 << 20,
		})
		if err != nil {
			return nil, err
		}
		s.Start()
		w.onClose(func() error {
			s.Shutdown()
			s.WaitForShutdown()
			return nil
		})
		if !s.ReadyForConnections(natsStart) {
			return nil, errors.New("the NATS server did not start")
		}
		if err := addStream(s.ClientURL()); err != nil {
			return nil, fmt.Errorf("add a stream: %w", err)
		}
		return map[string]string{"natsURL": s.ClientURL()}, nil
	}
}

func addStream(url string) error {
	conn, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := conn.JetStream()
	if err != nil {
		return err
	}
	_, err = js.AddStream(&nats.StreamConfig{Name: "bench", Subjects: []string{topics}, Storage: nats.FileStorage})
	return err
}
