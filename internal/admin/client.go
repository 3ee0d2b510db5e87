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
func (c *Client) Info(ctx context.Context) (Info, error) {
	return call[Info](ctx, c, pathInfo, struct{}{})
}

// Ready returns nil if the process serves and can write its databases, else what is wrong.
func (c *Client) Ready(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, pathReady, struct{}{})
	return err
}

// DeadLetters returns one page, by ascending id.
func (c *Client) DeadLetters(ctx context.Context, opts ListOptions) (DeadLetterPage, error) {
	return call[DeadLetterPage](ctx, c, pathList, opts)
}

// DeadLetter returns one dead letter with its payload.
func (c *Client) DeadLetter(ctx context.Context, bucket Bucket, id uint64) (DeadLetter, error) {
	return call[DeadLetter](ctx, c, pathShow, idRequest{bucket, id})
}

// Redrive sends at most MaxIDs dead letters back to their groups. Ids that are not there are left out of the result.
func (c *Client) Redrive(ctx context.Context, bucket Bucket, ids []uint64) (RedriveResult, error) {
	return call[RedriveResult](ctx, c, pathRedrive, idsRequest{bucket, ids})
}

// Purge removes at most MaxIDs dead letters for good. Ids that are not there are not counted.
func (c *Client) Purge(ctx context.Context, bucket Bucket, ids []uint64) (PurgeResult, error) {
	return call[PurgeResult](ctx, c, pathPurge, idsRequest{bucket, ids})
}

// Buckets lists the pub/sub buckets of the data directory.
func (c *Client) Buckets(ctx context.Context) (Buckets, error) {
	return call[Buckets](ctx, c, pathBuckets, struct{}{})
}

// Topics counts what is stored, by topic and group: in a bucket, or in all of them if bucket is the zero value.
func (c *Client) Topics(ctx context.Context, bucket Bucket) (Topics, error) {
	return call[Topics](ctx, c, pathTopics, bucket)
}

// RemoveGroup ends a group that left for good.
func (c *Client) RemoveGroup(ctx context.Context, bucket Bucket, topic, group string) error {
	_, err := call[struct{}](ctx, c, pathRemoveGroup, removeGroupRequest{bucket, topic, group})
	return err
}

// Backup has the process write a copy of the database to a new file at an absolute path.
func (c *Client) Backup(ctx context.Context, database, path string) (BackupResult, error) {
	return call[BackupResult](ctx, c, pathBackup, backupRequest{database, path})
}

func call[T any](ctx context.Context, c *Client, path string, request any) (answer T, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://dapr-bolt"+path, bytes.NewReader(body))
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
