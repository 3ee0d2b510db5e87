package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/dapr-bolt/dapr-bolt/cmd/todo/internal/invalid"
)

const maxBody = 64 << 10

// statusError is an error that knows its HTTP status.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// ReadJSON decodes a request's body of up to 64 KiB. Fields that target does not have are refused.
func ReadJSON(w http.ResponseWriter, r *http.Request, target any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(target)
	if err == nil && decoder.More() {
		err = errors.New("more than one JSON value")
	}
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return &statusError{http.StatusRequestEntityTooLarge, fmt.Errorf("the body is too large, want at most %d bytes", maxBody)}
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return invalid.NewField(wrongType.Field, wrongType.Value, "a JSON "+wrongType.Type.String())
	case errors.Is(err, io.EOF):
		return &statusError{http.StatusBadRequest, errors.New("the body is empty, want a JSON object")}
	}
	return &statusError{http.StatusBadRequest, fmt.Errorf("the body is not the JSON object that is wanted: %w", err)}
}

// WriteJSON answers with a value as JSON.
func WriteJSON(w http.ResponseWriter, status int, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that went away is no failure of the handler, and there is nobody left to tell.
	_, _ = w.Write(append(body, '\n'))
	return nil
}

func writeError(w http.ResponseWriter, status int, err error) {
	body := struct {
		Error string `json:"error"`
		*invalid.Field
	}{Error: err.Error()}
	errors.As(err, &body.Field)
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	_ = WriteJSON(w, status, body)
}
