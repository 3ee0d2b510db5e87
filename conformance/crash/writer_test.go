package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dapr-bolt/dapr-bolt/conformance/harness"
)

const (
	writers = 6
	// versionsOfKey is after how many writes a key is left alone, so that what one kill lost is not written again before
	// somebody looks.
	versionsOfKey = 5
	// counters are incremented by all writers at once.
	counters = 3
)

// writer is one client of the state store.
type writer struct {
	*run
	client *harness.Client
	name   string
	// old is an ETag that a key of this writer no longer has.
	old map[string]string
	// recent are the keys that it has written since the last kill.
	recent []string
}

// work writes until ctx ends. An error is an answer that no call should get.
func (w *writer) work(ctx context.Context) error {
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("%s-key-%d", w.name, i/versionsOfKey)
		var err error
		switch rand.IntN(10) {
		case 0, 1, 2, 3:
			err = w.write(ctx, key)
		case 4, 5:
			err = w.writeTogether(ctx, key+"-left", key+"-right")
		case 6, 7:
			err = w.increment(ctx, fmt.Sprintf("counter-%d", rand.IntN(counters)))
		case 8:
			err = w.writeAgain(ctx, fmt.Sprintf("%s-once-%d", w.name, i))
		case 9:
			err = w.readBack(ctx, key)
		}
		switch {
		case err == nil:
		case harness.Unanswered(err):
			w.unanswered.Add(1)
			err = w.readRecent(ctx)
		case w.Excuses(err):
			err = nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// readRecent reads, after a kill, what was written before it.
func (w *writer) readRecent(ctx context.Context) error {
	for len(w.recent) > 0 && ctx.Err() == nil {
		key := w.recent[len(w.recent)-1]
		got, err := w.client.State.Get(ctx, &proto.GetRequest{Key: key})
		switch {
		case err == nil:
			w.keys.read(key, absentIfEmpty(got.GetData()))
			w.recent = w.recent[:len(w.recent)-1]
		case harness.Unanswered(err), w.Excuses(err):
			pause(ctx, harness.Redial)
		default:
			return err
		}
	}
	return nil
}

// written notes how a write was answered.
func (w *writer) written(err error, version int, keys ...string) {
	switch {
	case err == nil:
		w.keys.acknowledged(version, keys...)
		w.acked.Add(1)
	case w.Excuses(err) && !unsure(err):
		w.keys.failedToWrite(version, keys...)
	}
}

// unsure reports whether an error says that what was asked for may have taken place.
func unsure(err error) bool { return strings.Contains(err.Error(), "may have taken place") }

func setRequest(key string, value []byte) *proto.SetRequest {
	return &proto.SetRequest{Key: key, Value: value}
}

// write puts the key's next version in place, which may be its absence.
func (w *writer) write(ctx context.Context, key string) error {
	version := w.keys.try(key)
	w.recent = append(w.recent, key)
	var err error
	if value := versionOf(key, version); value != nil {
		_, err = w.client.State.Set(ctx, setRequest(key, value))
	} else {
		_, err = w.client.State.Delete(ctx, &proto.DeleteRequest{Key: key})
	}
	w.written(err, version, key)
	return err
}

func (w *writer) writeTogether(ctx context.Context, keys ...string) error {
	version := w.keys.try(keys...)
	w.recent = append(w.recent, keys...)
	var request proto.TransactionalStateRequest
	for _, key := range keys {
		operation := &proto.TransactionalStateOperation{}
		if value := versionOf(key, version); value != nil {
			operation.Request = &proto.TransactionalStateOperation_Set{Set: setRequest(key, value)}
		} else {
			operation.Request = &proto.TransactionalStateOperation_Delete{Delete: &proto.DeleteRequest{Key: key}}
		}
		request.Operations = append(request.Operations, operation)
	}
	_, err := w.client.Transaction.Transact(ctx, &request)
	w.written(err, version, keys...)
	return err
}

// increment adds one to a counter that others increment as well.
func (w *writer) increment(ctx context.Context, key string) error {
	known := w.keys.highest(key)
	got, err := w.client.State.Get(ctx, &proto.GetRequest{Key: key})
	if err != nil {
		return err
	}
	value := 0
	if len(got.GetData()) > 0 {
		if value, err = strconv.Atoi(string(got.GetData())); err != nil {
			w.found.add(ChangedBytes, "%s: %q", key, got.GetData())
			return nil
		}
	}
	w.keys.counted(key, value, known)
	request := setRequest(key, []byte(strconv.Itoa(value+1)))
	request.Options = &proto.StateOptions{Concurrency: proto.StateOptions_CONCURRENCY_FIRST_WRITE}
	if got.GetEtag().GetValue() != "" {
		request.Etag = got.GetEtag()
	}
	w.keys.counting(key)
	_, err = w.client.State.Set(ctx, request)
	switch {
	case err == nil:
		w.keys.incremented(key, value+1)
		w.acked.Add(1)
	case status.Code(err) == codes.FailedPrecondition:
		w.keys.refusedOne()
		return nil
	}
	return err
}

// writeAgain writes under an idempotency key until that is answered, writes something else, and repeats the first call,
// which must succeed and change nothing.
func (w *writer) writeAgain(ctx context.Context, key string) error {
	version := w.keys.try(key)
	first := setRequest(key, versionOf(key, version))
	first.Metadata = map[string]string{"idempotencyKey": key}
	once := func() error {
		for {
			_, err := w.client.State.Set(ctx, first)
			if !harness.Unanswered(err) && !w.Excuses(err) {
				return err
			}
			w.unanswered.Add(1)
			pause(context.WithoutCancel(ctx), harness.Redial)
		}
	}
	if err := once(); err != nil {
		return err
	}
	w.keys.acknowledged(version, key)
	w.acked.Add(1)
	if err := w.write(ctx, key); err != nil {
		return err
	}
	if err := once(); err != nil {
		return err
	}
	got, err := w.client.State.Get(ctx, &proto.GetRequest{Key: key})
	if err != nil {
		return err
	}
	if n, whole := numberOf(key, got.GetData()); whole && n == version {
		w.found.add(TwiceInEffect, "%s", key)
		return nil
	}
	w.keys.read(key, absentIfEmpty(got.GetData()))
	return nil
}

// readBack reads a key of the writer's own, and tries an ETag that it had before.
func (w *writer) readBack(ctx context.Context, key string) error {
	got, err := w.client.State.Get(ctx, &proto.GetRequest{Key: key})
	if err != nil {
		return err
	}
	w.keys.read(key, absentIfEmpty(got.GetData()))
	now, before := got.GetEtag().GetValue(), w.old[key]
	w.old[key] = now
	if before == "" || before == now {
		return nil
	}
	_, err = w.client.State.Delete(ctx, &proto.DeleteRequest{Key: key, Etag: &proto.Etag{Value: before}})
	switch {
	case err == nil:
		w.found.add(StaleETag, "%s: ETag %s, while it has %s", key, before, now)
	case status.Code(err) == codes.FailedPrecondition:
		w.keys.refusedOne()
		return nil
	}
	return err
}

// absentIfEmpty: no version of a key is empty.
func absentIfEmpty(value []byte) []byte {
	if len(value) == 0 {
		return nil
	}
	return value
}
