// Package cause finds what a failed delivery says beyond the words that Dapr puts around it.
package cause

import (
	"regexp"
	"strings"
)

// boilerplate is what Dapr 1.18 puts around the words of an app, or of the network (pkg/runtime/subscription/postman).
var (
	boilerplate = regexp.MustCompile(`^(retriable error occurred(: |$)` +
		`|retriable error returned from app while processing pub/sub event .*?, topic: .*?, body: ` +
		`|error returned from app while processing (bulk )?pub/sub event( \S*)?: ` +
		`|error (returned )?from app channel while sending pub/sub event to app: )`)
	grpcStatus    = regexp.MustCompile(`(?s)^rpc error: code = (\w+) desc = (.+)$`)
	statusCode    = regexp.MustCompile(`(?s)^(.*?)\s*\. status code returned: (\d+)$`)
	unknownStatus = regexp.MustCompile(`^unknown status returned from app while processing (?:pub/sub event .*, status: (.*), err: .*|bulk subscribe event \S*: (.*))$`)
	retryStatus   = regexp.MustCompile(`^RETRY (status returned from app while processing pub/sub event|required while processing bulk subscribe event for entry id:) .*$`)
	// Of a bulk subscription's answer, Dapr keeps the status code and no body.
	bulkStatusCode = regexp.MustCompile(`^Retriable error returned from app while processing bulk pub/sub event, topic: .*\. status code returned: (\d+)$`)
	bulkNoStatus   = regexp.MustCompile(`^response not received, RETRY required while processing bulk subscribe event for entry id: .*$`)
)

// Of returns what a failed delivery's text says beyond Dapr's own words, for lists.
func Of(text string) string {
	for {
		rest := strings.TrimPrefix(text, boilerplate.FindString(text))
		if rest == text || rest == "" {
			break
		}
		text = rest
	}
	if m := unknownStatus.FindStringSubmatch(text); m != nil {
		return "unknown status " + m[1] + m[2] + ": Dapr knows SUCCESS, RETRY and DROP"
	}
	if retryStatus.MatchString(text) {
		return "RETRY status"
	}
	if bulkNoStatus.MatchString(text) {
		return "no status for this event: a bulk handler answers with statuses, by entryId"
	}
	if m := bulkStatusCode.FindStringSubmatch(text); m != nil {
		return "status " + m[1]
	}
	if m := statusCode.FindStringSubmatch(text); m != nil {
		if m[1] == "" {
			return "status " + m[2]
		}
		return m[1] + " (status " + m[2] + ")"
	}
	if m := grpcStatus.FindStringSubmatch(text); m != nil {
		return m[2] + " (" + m[1] + ")"
	}
	return text
}
