package cause

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOf(t *testing.T) {
	for text, want := range map[string]string{
		"retriable error occurred: retriable error returned from app while processing pub/sub event e.1, topic: orders, body: no slot left. status code returned: 500":                          "no slot left (status 500)",
		"error returned from app channel while sending pub/sub event to app: retriable error occurred: dial tcp 127.0.0.1:8000: connect: connection refused":                                    "dial tcp 127.0.0.1:8000: connect: connection refused",
		"retriable error occurred: retriable error returned from app while processing pub/sub event e, topic: t, body: . status code returned: 503":                                             "status 503",
		"error returned from app while processing pub/sub event e: retriable error occurred: rpc error: code = Unknown desc = no slot":                                                          "no slot (Unknown)",
		"retriable error occurred: retriable error returned from app while processing pub/sub event e, topic: t, body: rpc error: code = Unavailable desc = no slot. status code returned: 500": "rpc error: code = Unavailable desc = no slot (status 500)",
		"unknown status returned from app while processing pub/sub event e, status: success, err: retriable error occurred":                                                                     "unknown status success: Dapr knows SUCCESS, RETRY and DROP",
		"RETRY status returned from app while processing pub/sub event e: retriable error occurred":                                                                                             "RETRY status",
		"retriable error occurred: retriable error returned from app while processing pub/sub event order: 7, topic: a.b, body: full: try later\n. status code returned: 500":                   "full: try later (status 500)",
		"RETRY required while processing bulk subscribe event for entry id: 79b55ce5-14af-40c3-ad0a-6525c638a4a0":                                                                               "RETRY status",
		"response not received, RETRY required while processing bulk subscribe event for entry id: b3d86e4e-ec16-40d7-97d9-a64f6072c505":                                                        "no status for this event: a bulk handler answers with statuses, by entryId",
		"unknown status returned from app while processing bulk subscribe event 03406fe7-7d12-4b4f-b283-f8409bf6e995: success":                                                                  "unknown status success: Dapr knows SUCCESS, RETRY and DROP",
		"Retriable error returned from app while processing bulk pub/sub event, topic: a.b. status code returned: 500":                                                                          "status 500",
		"cannot book": "cannot book",
	} {
		require.Equal(t, want, Of(text))
	}
}

// Whatever an app answers, its dead letter says something, and little more than the app.
func FuzzOf(f *testing.F) {
	f.Add("retriable error occurred: retriable error returned from app while processing pub/sub event e, topic: t, body: no slot. status code returned: 500")
	f.Add("response not received, RETRY required while processing bulk subscribe event for entry id: ")
	f.Add("error returned from app while processing pub/sub event e: retriable error occurred: retriable error occurred")
	f.Fuzz(func(t *testing.T, text string) {
		got := Of(text)
		require.Equal(t, text == "", got == "")
		require.LessOrEqual(t, len(got), len(text)+len(" (status )"))
	})
}
