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

// Client calls the process behind an admin socket: see Call.Ask, and Watch.
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

// Watch calls fn with each new event of a topic, payload and all, until ctx or the process ends, or fn returns an error, which
// it returns. An event that is held back is shown when it is published, with the sequence 0.
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
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("the process on %s answers the user who runs it, and root, alone: %w", c.socket, fs.ErrPermission)
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
