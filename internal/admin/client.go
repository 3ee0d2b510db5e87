package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
)

// Error is what the process answered a call with.
type Error struct {
	// Status is the HTTP status.
	Status  int
	Message string
}

func (e *Error) Error() string { return e.Message }

// NotRunningError means that no process serves the admin socket.
type NotRunningError struct {
	Socket string
	Err    error
}

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("no dapr-bolt process is running on %s (%v)", e.Socket, e.Err)
}

// Unwrap returns why the socket could not be reached.
func (e *NotRunningError) Unwrap() error { return e.Err }

// Client calls the process behind an admin socket. Its methods return *Error for what the process refused, and
// *NotRunningError when there is no process.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a Client of the socket at path. The caller must Close it.
func NewClient(path string) *Client {
	dialer := net.Dialer{Timeout: dialTimeout}
	return &Client{
		socket: path,
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				if err := checkPathLength(path); err != nil {
					return nil, err
				}
				return dialer.DialContext(ctx, "unix", path)
			},
		}},
	}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Info describes the process.
func (c *Client) Info(ctx context.Context) (Info, error) { return callInfo.ask(ctx, c, empty{}) }

// Ready returns nil if the process serves and can write its databases, else what is wrong.
func (c *Client) Ready(ctx context.Context) error {
	_, err := callReady.ask(ctx, c, empty{})
	return err
}

// Buckets lists the buckets of the data directory.
func (c *Client) Buckets(ctx context.Context) (Buckets, error) {
	return callBuckets.ask(ctx, c, empty{})
}

// Backup has the process write a copy of the database to a new file.
func (c *Client) Backup(ctx context.Context, request BackupRequest) (BackupResult, error) {
	return callBackup.ask(ctx, c, request)
}

// Topics is Service.Topics.
func (c *Client) Topics(ctx context.Context, request TopicsRequest) (Topics, error) {
	return callTopics.ask(ctx, c, request)
}

// RemoveGroup is Service.RemoveGroup.
func (c *Client) RemoveGroup(ctx context.Context, request GroupRequest) error {
	_, err := callRemoveGroup.ask(ctx, c, request)
	return err
}

// DeadLetters is Service.DeadLetters.
func (c *Client) DeadLetters(ctx context.Context, opts ListOptions) (DeadLetterPage, error) {
	return callDeadLetters.ask(ctx, c, opts)
}

// DeadLetter is Service.DeadLetter.
func (c *Client) DeadLetter(ctx context.Context, request IDRequest) (DeadLetter, error) {
	return callDeadLetter.ask(ctx, c, request)
}

// Redrive is Service.Redrive.
func (c *Client) Redrive(ctx context.Context, request IDsRequest) (RedriveResult, error) {
	return callRedrive.ask(ctx, c, request)
}

// Purge is Service.Purge.
func (c *Client) Purge(ctx context.Context, request IDsRequest) (PurgeResult, error) {
	return callPurge.ask(ctx, c, request)
}

// Topic is Service.Topic.
func (c *Client) Topic(ctx context.Context, request TopicRequest) (TopicDetail, error) {
	return callTopic.ask(ctx, c, request)
}

// Events is Service.Events.
func (c *Client) Events(ctx context.Context, request EventsRequest) (EventPage, error) {
	return callEvents.ask(ctx, c, request)
}

// Publish is Service.Publish.
func (c *Client) Publish(ctx context.Context, request PublishRequest) (PublishResult, error) {
	return callPublish.ask(ctx, c, request)
}

// Event is Service.Event.
func (c *Client) Event(ctx context.Context, request EventRequest) (EventDetail, error) {
	return callEvent.ask(ctx, c, request)
}

// Retries is Service.Retries.
func (c *Client) Retries(ctx context.Context, request RetriesRequest) (RetryPage, error) {
	return callRetries.ask(ctx, c, request)
}

// DeadLetterGroups is Service.DeadLetterGroups.
func (c *Client) DeadLetterGroups(ctx context.Context, request ListOptions) (DeadLetterGroups, error) {
	return callDeadLetterGroups.ask(ctx, c, request)
}

// CancelJob is Service.CancelJob.
func (c *Client) CancelJob(ctx context.Context, request JobRequestID) (Job, error) {
	return callCancelJob.ask(ctx, c, request)
}

// StateBucket is Service.StateBucket.
func (c *Client) StateBucket(ctx context.Context, request Bucket) (StateInfo, error) {
	return callStateBucket.ask(ctx, c, request)
}

// Apps is Service.Apps.
func (c *Client) Apps(ctx context.Context, request PageRequest) (Apps, error) {
	return callApps.ask(ctx, c, request)
}

// Keys is Service.Keys.
func (c *Client) Keys(ctx context.Context, request KeysRequest) (KeyPage, error) {
	return callKeys.ask(ctx, c, request)
}

// Value is Service.Value.
func (c *Client) Value(ctx context.Context, request KeyRequest) (Value, error) {
	return callValue.ask(ctx, c, request)
}

// SetValue is Service.SetValue.
func (c *Client) SetValue(ctx context.Context, request SetRequest) (Key, error) {
	return callSetValue.ask(ctx, c, request)
}

// IdempotencyKeys is Service.IdempotencyKeys.
func (c *Client) IdempotencyKeys(ctx context.Context, request PageRequest) (IdempotencyPage, error) {
	return callIdempotencyKeys.ask(ctx, c, request)
}

// Query is Service.Query.
func (c *Client) Query(ctx context.Context, request QueryRequest) (QueryResult, error) {
	return callQuery.ask(ctx, c, request)
}

// RemoveTopic is Service.RemoveTopic.
func (c *Client) RemoveTopic(ctx context.Context, request TopicRequest) error {
	_, err := callRemoveTopic.ask(ctx, c, request)
	return err
}

// RetryNow is Service.RetryNow.
func (c *Client) RetryNow(ctx context.Context, request RetryRequest) error {
	_, err := callRetryNow.ask(ctx, c, request)
	return err
}

// RetrySkip is Service.RetrySkip.
func (c *Client) RetrySkip(ctx context.Context, request RetryRequest) error {
	_, err := callRetrySkip.ask(ctx, c, request)
	return err
}

// DeleteValue is Service.DeleteValue.
func (c *Client) DeleteValue(ctx context.Context, request DeleteRequest) error {
	_, err := callDeleteValue.ask(ctx, c, request)
	return err
}

// RemoveBucket is Service.RemoveBucket.
func (c *Client) RemoveBucket(ctx context.Context, request RemoveBucketRequest) error {
	_, err := callRemoveBucket.ask(ctx, c, request)
	return err
}

// Overview is Service.Overview.
func (c *Client) Overview(ctx context.Context) (Overview, error) {
	return callOverview.ask(ctx, c, empty{})
}

// Jobs is Service.Jobs.
func (c *Client) Jobs(ctx context.Context) (Jobs, error) { return callJobs.ask(ctx, c, empty{}) }

// Watch is Service.Watch. It also ends, without an error, when the process does.
func (c *Client) Watch(ctx context.Context, request TopicRequest, fn func(WatchedEvent) error) error {
	body, err := c.post(ctx, pathWatch, request)
	if err != nil {
		return err
	}
	defer body.Close()
	for dec := json.NewDecoder(body); ; {
		var e WatchedEvent
		err := dec.Decode(&e)
		switch {
		case ctx.Err() != nil || errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("answer of the process on %s: %w", c.socket, err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// ask sends the request and returns the answer.
func (k call[Request, Answer]) ask(ctx context.Context, c *Client, request Request) (answer Answer, err error) {
	body, err := c.post(ctx, k.path, request)
	if err != nil {
		return answer, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("answer of the process on %s: %w", c.socket, err)
	}
	return answer, nil
}

// post sends a request and returns the body of a success, which the caller must close.
func (c *Client) post(ctx context.Context, path string, request any) (io.ReadCloser, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dapr-bolt"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &NotRunningError{Socket: c.socket, Err: fs.ErrNotExist}
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, &NotRunningError{Socket: c.socket, Err: syscall.ECONNREFUSED}
	case err != nil:
		return nil, fmt.Errorf("ask the process on %s: %w", c.socket, err)
	case resp.StatusCode == http.StatusOK:
		return resp.Body, nil
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("answer of the process on %s: %w", c.socket, err)
	}
	var refusal errorBody
	if json.Unmarshal(raw, &refusal) != nil || refusal.Error == "" {
		refusal.Error = fmt.Sprintf("the process on %s answered %s", c.socket, resp.Status)
	}
	return nil, &Error{Status: resp.StatusCode, Message: refusal.Error}
}
