package component

import (
	"context"
	"fmt"

	sdkpubsub "github.com/dapr-sandbox/components-go-sdk/pubsub/v1"
	sdkstate "github.com/dapr-sandbox/components-go-sdk/state/v1"
	"github.com/dapr/components-contrib/health"
	contribpubsub "github.com/dapr/components-contrib/pubsub"
	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// hiddenContentType carries a set's content type past the SDK. Apps cannot use it: what they send under this key is
// removed.
const hiddenContentType = "\x00contentType"

// registerSDK lets the SDK serve what it can. It asks for the instance of a call, and has nothing but a context to ask by.
// Fault: it does not have the service TransactionalStoreMultiMaxSize.
func registerSDK(server *grpc.Server) {
	sdkstate.Register(server, func(ctx context.Context) sdkstate.Store { return callOf(ctx).store })
	sdkpubsub.Register(server, func(ctx context.Context) sdkpubsub.PubSub { return callOf(ctx).pubsub })
	proto.RegisterTransactionalStoreMultiMaxSizeServer(server, proto.UnimplementedTransactionalStoreMultiMaxSizeServer{})
}

// correctUnary puts right what the SDK does wrong with unary calls. It answers those calls itself that the SDK does not
// pass on. The call is bound.
func correctUnary(ctx context.Context, c *call, req any, handler grpc.UnaryHandler) (any, error) {
	switch r := req.(type) {
	// Fault: a request without metadata makes Init panic.
	case *proto.InitRequest:
		if r.Metadata == nil {
			r.Metadata = &proto.MetadataRequest{}
		}
	case *proto.PubSubInitRequest:
		if r.Metadata == nil {
			r.Metadata = &proto.MetadataRequest{}
		}

	// Fault: values are decoded, and what cannot be decoded is lost.
	case *proto.SetRequest:
		hideContentType(r)
	case *proto.BulkSetRequest:
		for _, item := range r.Items {
			hideContentType(item)
		}
	case *proto.TransactionalStateRequest:
		for i, op := range r.Operations {
			switch op := op.GetRequest().(type) {
			case *proto.TransactionalStateOperation_Set:
				hideContentType(op.Set)
			// Fault: an operation that is neither a set nor a delete makes Transact panic.
			case nil:
				return nil, invalid.New(fmt.Sprintf("operations[%d]", i), "", "a set or a delete")
			}
		}

	case *proto.QueryRequest:
		return correctQuery(ctx, c.store, r)

	// Fault: the error of a call is thrown away. The runtime takes any answer for success, also one with failed entries in
	// it, of which it does not tell the app: one entry that was not stored must fail the call.
	case *proto.BulkPublishRequest:
		bulk := &contribpubsub.BulkPublishRequest{Topic: r.Topic, Metadata: r.Metadata, Entries: make([]contribpubsub.BulkMessageEntry, len(r.Entries))}
		for i, entry := range r.Entries {
			bulk.Entries[i] = contribpubsub.BulkMessageEntry{
				EntryId: entry.EntryId, Event: entry.Event, ContentType: entry.ContentType, Metadata: entry.Metadata,
			}
		}
		if _, err := c.pubsub.BulkPublish(ctx, bulk); err != nil {
			return nil, err
		}
		return &proto.BulkPublishResponse{}, nil

	// Fault: Ping is answered without asking the component.
	case *proto.PingRequest:
		var pinger health.Pinger = c.pubsub
		if c.store != nil {
			pinger = c.store
		}
		if err := pinger.Ping(ctx); err != nil {
			return nil, fmt.Errorf("ping: %w", err)
		}
		return &proto.PingResponse{}, nil

	// Fault: Pause, Resume and MultiMaxSize are not implemented.
	case *proto.PauseRequest:
		return &proto.PauseResponse{}, c.pubsub.Pause(ctx)
	case *proto.ResumeRequest:
		return &proto.ResumeResponse{}, c.pubsub.Resume(ctx)
	case *proto.MultiMaxSizeRequest:
		return &proto.MultiMaxSizeResponse{MaxSize: int64(c.store.MultiMaxSize())}, nil
	}
	return handler(ctx, req)
}

// hideContentType moves the content type to where the SDK does not look for it. Its decision to decode goes by the
// request's field and by exactly this metadata key.
func hideContentType(r *proto.SetRequest) {
	delete(r.Metadata, hiddenContentType)
	contentType := r.ContentType
	if fromMetadata, ok := r.Metadata[keyContentType]; ok {
		contentType = fromMetadata
	}
	if contentType == "" {
		return
	}
	delete(r.Metadata, keyContentType)
	r.ContentType = ""
	if r.Metadata == nil {
		r.Metadata = make(map[string]string, 1)
	}
	r.Metadata[hiddenContentType] = contentType
}
