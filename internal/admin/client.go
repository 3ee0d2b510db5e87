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

// ask sends the request and returns the answer.
func (k call[Request, Answer]) ask(ctx context.Context, c *Client, request Request) (answer Answer, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dapr-bolt"+k.path, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return answer, &NotRunningError{Socket: c.socket, Err: fs.ErrNotExist}
	case errors.Is(err, syscall.ECONNREFUSED):
		return answer, &NotRunningError{Socket: c.socket, Err: syscall.ECONNREFUSED}
	case err != nil:
		return answer, fmt.Errorf("ask the process on %s: %w", c.socket, err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return answer, fmt.Errorf("answer of the process on %s: %w", c.socket, err)
		}
		return answer, nil
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return answer, fmt.Errorf("answer of the process on %s: %w", c.socket, err)
	}
	var refusal errorBody
	if json.Unmarshal(raw, &refusal) != nil || refusal.Error == "" {
		refusal.Error = fmt.Sprintf("the process on %s answered %s", c.socket, resp.Status)
	}
	return answer, &Error{Status: resp.StatusCode, Message: refusal.Error}
}
