package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Connections are not kept, so that a restarted process is never asked over the
// connection of its last life.
var client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   5 * time.Minute,
}

// Response is an HTTP response that was read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// OK returns an error that quotes the response unless its status is 2xx.
func (r Response) OK() error {
	if r.Status < 200 || r.Status > 299 {
		return fmt.Errorf("status %d: %s", r.Status, bytes.TrimSpace(r.Body))
	}
	return nil
}

// JSON decodes the body into v.
func (r Response) JSON(v any) error {
	if err := json.Unmarshal(r.Body, v); err != nil {
		return fmt.Errorf("decoding %q: %w", r.Body, err)
	}
	return nil
}

// Call sends one HTTP request. A body of type []byte goes out as it is, any other
// that is not nil as JSON. Headers are pairs of name and value, and win over the
// content type that follows from the body. Any status is a response, not an error.
func Call(ctx context.Context, method, url string, body any, headers ...string) (Response, error) {
	var reader io.Reader
	contentType := ""
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return Response{}, err
		}
		reader, contentType = bytes.NewReader(raw), "application/json"
	}
	request, err := http.NewRequestWithContext(ctx, method, url, reader)
	if err != nil {
		return Response{}, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return Response{}, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return Response{}, fmt.Errorf("%s %s: reading the response: %w", method, url, err)
	}
	return Response{Status: response.StatusCode, Header: response.Header, Body: raw}, nil
}

// answers is the Ready of a process that is ready when url answers with 2xx.
func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		response, err := Call(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if err := response.OK(); err != nil {
			return fmt.Errorf("GET %s: %w", url, err)
		}
		return nil
	}
}
