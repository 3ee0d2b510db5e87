package natsbroker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	// requestTimeout bounds one request; what must succeed asks again.
	requestTimeout = 3 * time.Second
	// findTimeout bounds one attempt to find the stream: a sidecar gives Init five seconds in all.
	findTimeout = time.Second
	// retryPause is the wait before a request is made again that failed.
	retryPause = 100 * time.Millisecond
)

// The server's error codes that mean: not as the message expected. The second hides the first while a batch is stored.
const (
	codeWrongLastSequence   jetstream.ErrorCode = 10071
	codeLastSequencePending jetstream.ErrorCode = 10164
	codeNoMessage           jetstream.ErrorCode = 10037
	// codeIncompleteBatch: another leader has a part of the batch, and stores none of it.
	codeIncompleteBatch jetstream.ErrorCode = 10176
)

// oldestServer is the first version that delivers all events. An older one takes a purge of one of a consumer's subjects for a purge
// of all of them: the consumer passes over what it is owed of the others. The Makefile reads it here.
const oldestServer = "2.14.7"

// errConflict: a message expected another sequence than there was.
var errConflict = errors.New("somebody else was faster")

// store stores messages in one step.
func (b *Broker) store(ctx context.Context, messages ...*nats.Msg) error {
	if len(messages) == 1 {
		_, err := b.storeOne(ctx, messages[0])
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for _, m := range messages {
		packRecords(m)
	}
	_, err := jetstreamext.PublishMsgBatch(ctx, b.js, messages, jetstreamext.BatchFlowControl{AckTimeout: requestTimeout})
	return orConflict(err)
}

// storeOne stores a message and returns its sequence.
func (b *Broker) storeOne(ctx context.Context, m *nats.Msg) (sequence uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	packRecords(m)
	ack, err := b.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	if err != nil {
		return 0, orConflict(err)
	}
	return ack.Sequence, nil
}

func orConflict(err error) error {
	var refused *jetstream.APIError
	if errors.As(err, &refused) && (refused.ErrorCode == codeWrongLastSequence || refused.ErrorCode == codeLastSequencePending) {
		return errConflict
	}
	return err
}

// isRefusal reports whether an error is the server's last word.
func isRefusal(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) && refused.Code < 500 && refused.Code != 429 && refused.ErrorCode != codeIncompleteBatch
}

// retry calls f until it succeeds, the server refuses it, or ctx ends.
func (b *Broker) retry(ctx context.Context, f func(ctx context.Context) error) error {
	for {
		err := f(ctx)
		if err == nil || errors.Is(err, errConflict) || isRefusal(err) {
			return err
		}
		if !b.pauseRetry(ctx) {
			return b.orUnreachable(err)
		}
	}
}

// orUnreachable says what it means that a request could not be sent, of which the client knows no more than that its buffer is full.
func (b *Broker) orUnreachable(err error) error {
	if !errors.Is(err, nats.ErrReconnectBufExceeded) {
		return err
	}
	return fmt.Errorf("none of the nats servers %s can be reached: %w", b.opts.URL, cmp.Or(b.nc.LastError(), nats.ErrConnectionReconnecting))
}

// ask is retry for a request that gets requestTimeout for each try.
func (b *Broker) ask(ctx context.Context, request func(ctx context.Context) error) error {
	return b.retry(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return request(ctx)
	})
}

// pauseRetry waits before another try, and reports whether there is to be one.
func (b *Broker) pauseRetry(ctx context.Context) bool {
	select {
	case <-b.clock.After(retryPause):
		return true
	case <-ctx.Done():
		return false
	}
}

// bounded gives a call the time that it may take while no server answers.
func (b *Broker) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.opts.Timeout)
}

// boundedly is bounded for one of several steps.
func (b *Broker) boundedly(ctx context.Context, step func(ctx context.Context) error) error {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	return step(ctx)
}

// stored is a message as the stream's leader has it.
type stored struct {
	Subject  string      `json:"subject"`
	Sequence uint64      `json:"seq"`
	RawHdrs  []byte      `json:"hdrs"`
	Data     []byte      `json:"data"`
	Time     time.Time   `json:"time"`
	header   nats.Header `json:"-"`
}

// read asks the stream's leader: another replica, which the client library prefers, may lag behind. It returns nil if there
// is no such message.
func (b *Broker) read(ctx context.Context, request any) (*stored, error) {
	var found *stored
	err := b.ask(ctx, func(ctx context.Context) error {
		answer, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+b.layout.stream, []byte(marshal(request)))
		if err != nil {
			return err
		}
		var r struct {
			Error   *jetstream.APIError
			Message *stored
		}
		switch err := json.Unmarshal(answer.Data, &r); {
		case err != nil:
			return err
		case r.Error != nil && r.Error.ErrorCode == codeNoMessage:
			return nil
		case r.Error != nil:
			return r.Error
		}
		found = r.Message
		if len(found.RawHdrs) > 0 {
			found.header, err = nats.DecodeHeadersMsg(found.RawHdrs)
			found.Data = unpackRecords(found.header, found.Data)
		}
		return err
	})
	return found, err
}

func (b *Broker) readLast(ctx context.Context, subject string) (*stored, error) {
	return b.read(ctx, map[string]any{"last_by_subj": subject})
}

func (b *Broker) readNext(ctx context.Context, subject string, from uint64) (*stored, error) {
	return b.read(ctx, map[string]any{"next_by_subj": subject, "seq": max(from, 1)})
}

func (b *Broker) readSequence(ctx context.Context, sequence uint64) (*stored, error) {
	return b.read(ctx, map[string]any{"seq": sequence})
}

// purge removes the messages of a subject before a sequence; zero: all of them.
func (b *Broker) purge(ctx context.Context, subject string, before uint64) error {
	opts := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSubject(subject)}
	if before > 0 {
		opts = append(opts, jetstream.WithPurgeSequence(before))
	}
	return b.ask(ctx, func(ctx context.Context) error { return b.stream.Purge(ctx, opts...) })
}

// ensureStream makes the stream, or takes the one that is there.
func (b *Broker) ensureStream(ctx context.Context) (jetstream.Stream, error) {
	config := jetstream.StreamConfig{
		Name:               b.layout.stream,
		Description:        "events of dapr-bolt",
		Subjects:           []string{b.layout.subject(">")},
		Replicas:           b.opts.Replicas,
		Storage:            jetstream.FileStorage,
		AllowDirect:        true,
		AllowRollup:        true,
		AllowMsgTTL:        true,
		AllowAtomicPublish: true,
		AllowMsgSchedules:  true,
		DenyDelete:         false,
	}
	stream, err := b.findStream(ctx, config)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("JetStream is off, or has no leader yet: set `jetstream { store_dir: …, sync_interval: always }` in the configuration of nats-server: %w", err)
	case err != nil:
		return nil, fmt.Errorf("stream %s: %w", b.layout.stream, err)
	}
	have := stream.CachedInfo().Config
	if err := checkConfig(&have); err != nil {
		return nil, err
	}
	if have.Replicas != b.opts.Replicas {
		b.log.Warn("the stream has another number of replicas than the metadata says; `nats stream edit --replicas` changes it", "stream", b.layout.stream, "replicas", have.Replicas, "metadata", b.opts.Replicas)
	}
	return stream, nil
}

// checkConfig refuses a stream that lacks what the broker needs, and one whose leader is too old.
func checkConfig(have *jetstream.StreamConfig) error {
	if err := checkVersion(have.Metadata["_nats.ver"]); err != nil {
		return fmt.Errorf("stream %s: its leader is a %w", have.Name, err)
	}
	if have.AllowAtomicPublish && have.AllowMsgSchedules && have.AllowMsgTTL {
		return nil
	}
	return fmt.Errorf("stream %s: it has no atomic batches, schedules or times to live: it must be one that dapr-bolt made", have.Name)
}

// checkVersion refuses a server that is older than oldestServer.
func checkVersion(version string) error {
	if slices.Compare(versionNumbers(version), versionNumbers(oldestServer)) >= 0 {
		return nil
	}
	return fmt.Errorf("nats-server %s, of which events can be lost: all servers must be %s or newer", version, oldestServer)
}

// versionNumbers returns zeros for what is no version.
func versionNumbers(version string) []int {
	var major, minor, patch int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	return []int{major, minor, patch}
}

// findStream finds the stream, or makes it. A stream that another process is just making has no leader for an instant, in
// which nobody answers.
func (b *Broker) findStream(ctx context.Context, config jetstream.StreamConfig) (stream jetstream.Stream, err error) {
	attempt := func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, findTimeout)
		defer cancel()
		stream, err = b.js.Stream(ctx, config.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if stream, err = b.js.CreateStream(ctx, config); err != nil {
				err = fmt.Errorf("make it with replicas %d: %w", config.Replicas, err)
			}
		}
		return err
	}
	for {
		err = attempt()
		if again := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jetstream.ErrStreamNameAlreadyInUse); !again || ctx.Err() != nil {
			return stream, err
		}
	}
}
