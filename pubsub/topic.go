package pubsub

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
)

// maxNameBytes bounds the names of topics and groups.
const maxNameBytes = 512

// The wildcards in the topic of a subscription, as NATS has them: topics are dot-separated.
const (
	// wildcardPart stands for exactly one part.
	wildcardPart = "*"
	// wildcardRest stands for one part or more, at the end.
	wildcardRest = ">"
)

// IsPattern reports whether a subscription's topic holds wildcards.
func IsPattern(topic string) bool {
	for part := range strings.SplitSeq(topic, ".") {
		if part == wildcardPart || part == wildcardRest {
			return true
		}
	}
	return false
}

// Matches reports whether a topic's name matches a subscription's topic, which may hold wildcards.
func Matches(pattern, name string) bool {
	patternParts, nameParts := strings.Split(pattern, "."), strings.Split(name, ".")
	for i, p := range patternParts {
		if i >= len(nameParts) {
			return false
		}
		if p == wildcardRest && i == len(patternParts)-1 {
			return true
		}
		if p != wildcardPart && p != nameParts[i] {
			return false
		}
	}
	return len(patternParts) == len(nameParts)
}

// checkName refuses what cannot name a topic or a group.
func checkName(field, name string) error {
	if name != "" && len(name) <= maxNameBytes && utf8.ValidString(name) && strings.IndexFunc(name, unicode.IsControl) < 0 {
		return nil
	}
	return invalid.New(field, name, "1 to 512 bytes of UTF-8 without control characters")
}

// checkTopic refuses what cannot be published to.
func checkTopic(name string) error {
	if err := checkName("topic", name); err != nil {
		return err
	}
	if IsPattern(name) {
		return invalid.New("topic", name, "a name without the wildcards * and > (those are for subscriptions)")
	}
	return nil
}

// checkPattern refuses what cannot be subscribed to.
func checkPattern(topic string) error {
	if err := checkName("topic", topic); err != nil {
		return err
	}
	parts := strings.Split(topic, ".")
	for _, p := range parts[:len(parts)-1] {
		if p == wildcardRest {
			return invalid.New("topic", topic, "the wildcard > only as the last part")
		}
	}
	return nil
}
