package pubsub_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/boltdb"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
	"github.com/dapr-bolt/dapr-bolt/pubsub/boltengine"
)

// An event that is published twice is delivered once; one whose handler fails is delivered again, and then becomes a
// dead letter that can be sent back.
func ExampleBroker() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	db, err := boltdb.Open(ctx, filepath.Join(dir, "example.db"), boltdb.Options{})
	check(err)
	defer db.Close()
	engine, err := boltengine.New(ctx, db, "pubsub")
	check(err)
	broker, err := pubsub.NewBroker(ctx, engine, pubsub.Options{})
	check(err)
	defer broker.Close(ctx)

	stream, err := broker.Subscribe(ctx, pubsub.SubscribeOptions{Group: "billing", Topic: "orders", MaxDeliver: 2})
	check(err)
	order := pubsub.Message{EventID: "order-1", Data: []byte("two teapots")}
	for range 2 {
		check(broker.Publish(ctx, "orders", []pubsub.Message{order}, pubsub.PublishOptions{DedupWindow: time.Minute})[0])
	}

	for range 2 {
		d, err := stream.Next(ctx)
		check(err)
		fmt.Printf("delivery %d of %s: %s\n", d.Count, d.Event.ID, d.Event.Data)
		d.Nack("the card was refused")
	}

	var dead []pubsub.DeadLetter
	for len(dead) == 0 { // the broker writes it down in the background
		dead, _, err = broker.DeadLetters(ctx, pubsub.DeadLetterFilter{}, 0)
		check(err)
	}
	fmt.Println("dead letter of", dead[0].Group+":", dead[0].LastError())
	_, err = broker.Redrive(ctx, []uint64{dead[0].ID})
	check(err)

	d, err := stream.Next(ctx)
	check(err)
	fmt.Printf("delivery %d of %s\n", d.Count, d.Event.ID)
	d.Ack()

	// Output:
	// delivery 1 of order-1: two teapots
	// delivery 2 of order-1: two teapots
	// dead letter of billing: the card was refused
	// delivery 1 of order-1
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
