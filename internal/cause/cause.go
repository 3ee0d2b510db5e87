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
	statusCode    = regexp.MustCompile(`(?s)^(.*?)\s*\. status code returned: (\d+)$`)
	unknownStatus = regexp.MustCompile(`^unknown status returned from app while processing pub/sub event .*, status: (.*), err: .*$`)
	retryStatus   = regexp.MustCompile(`^RETRY status returned from app while processing pub/sub event .*$`)
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
		return "unknown status " + m[1] + ": Dapr knows SUCCESS, RETRY and DROP"
	}
	if retryStatus.MatchString(text) {
		return "RETRY status"
	}
	if m := statusCode.FindStringSubmatch(text); m != nil {
		if m[1] == "" {
			return "status " + m[2]
		}
		return m[1] + " (status " + m[2] + ")"
	}
	return text
}
