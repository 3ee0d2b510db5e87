package component

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/resubscribe"
)

// Field is one key of a component's metadata. Keys are case-insensitive, as everywhere in Dapr; an empty value stands
// for the default.
type Field struct {
	Name string
	// Default is written as a user would write it; empty: there is none.
	Default string
	// Allowed says which values are valid.
	Allowed string
	Meaning string
}

// field is a Field and how its value gets into a configuration C.
type field[C any] struct {
	Field
	// parse changes c only if it returns true: the value is allowed.
	parse func(c *C, value string) bool
}

func fieldsOf[C any](table []field[C]) []Field {
	fields := make([]Field, len(table))
	for i := range table {
		fields[i] = table[i].Field
	}
	return fields
}

// properties are metadata by lower-case key.
type properties map[string]string

// parseProperties refuses keys that differ in case only, as Dapr does: which of them holds would be a matter of luck.
func parseProperties(given map[string]string) (properties, error) {
	p := make(properties, len(given))
	for _, key := range slices.Sorted(maps.Keys(given)) {
		lower := strings.ToLower(key)
		if _, twice := p[lower]; twice {
			return nil, invalid.New("metadata", key, "each key once, whatever its case")
		}
		p[lower] = strings.TrimSpace(given[key])
	}
	return p, nil
}

// defaults returns what a table says for metadata that says nothing.
func defaults[C any](table []field[C]) C {
	var c C
	for _, f := range table {
		if f.Default != "" && !f.parse(&c, f.Default) {
			panic(fmt.Sprintf("the default %q of %s is not %s", f.Default, f.Name, f.Allowed))
		}
	}
	return c
}

// override changes in c what p names. The first value that is not allowed is an invalid.Error.
func override[C any](c *C, table []field[C], p properties) error {
	for _, f := range table {
		value := p[strings.ToLower(f.Name)]
		if value != "" && !f.parse(c, value) {
			return invalid.New(f.Name, value, f.Allowed)
		}
	}
	return nil
}

// daprKeys are those that Dapr itself takes from the metadata of a component or a subscription and passes on. Those that
// begin with outbox are Dapr's too.
var daprKeys = []string{
	"actorStateStore", "allowedTopics", "bulkSubscribe", "concurrencyMode", "keyPrefix", "partitionKey",
	"primaryEncryptionKey", "processMode", "protectedTopics", "publishingScopes", "rawPayload", "scopes",
	"secondaryEncryptionKey", "subscriptionScopes",
}

const daprOutboxPrefix = "outbox"

// warnUnknown logs one warning for each key that neither we nor Dapr know. They are never refused: Dapr may learn new ones.
func warnUnknown(log *slog.Logger, given map[string]string, known []Field) {
	known = append(known, Field{Name: resubscribe.MetadataKey})
	for _, key := range slices.Sorted(maps.Keys(given)) {
		isKey := func(name string) bool { return strings.EqualFold(name, key) }
		if slices.ContainsFunc(known, func(f Field) bool { return isKey(f.Name) }) || slices.ContainsFunc(daprKeys, isKey) ||
			strings.HasPrefix(strings.ToLower(key), daprOutboxPrefix) {
			continue
		}
		what := []any{"key", key}
		if meant := nearest(key, known); meant != "" {
			what = append(what, "nearest", meant)
		}
		log.Warn("unknown metadata key has no effect", what...)
	}
}

// nearest returns the name in fields that takes the fewest edits to get from key. It is empty if those are more than a third
// of the key: it is another component's then, not a misspelt one of ours.
func nearest(key string, fields []Field) string {
	best, fewest := "", len(key)/3+1
	for _, f := range fields {
		if d := editDistance(strings.ToLower(key), strings.ToLower(f.Name)); d < fewest {
			best, fewest = f.Name, d
		}
	}
	return best
}

// editDistance is Levenshtein's, by bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// property looks a key of a request's metadata up, whatever its case.
func property(metadata map[string]string, key string) string {
	if value, ok := metadata[key]; ok {
		return value
	}
	for k, value := range metadata {
		if strings.EqualFold(k, key) {
			return value
		}
	}
	return ""
}

// parseDuration takes Go's notation, or a whole number of seconds as Dapr does.
func parseDuration(value string) (time.Duration, bool) {
	if d, err := time.ParseDuration(value); err == nil {
		return d, true
	}
	seconds, err := strconv.ParseInt(value, 10, 64)
	const most = int64(1<<63-1) / int64(time.Second)
	if err != nil || seconds > most || seconds < -most {
		return 0, false
	}
	return time.Duration(seconds) * time.Second, true
}

// parseBool takes what Dapr takes for true, and its opposites.
func parseBool(value string) (b, ok bool) {
	switch strings.ToLower(value) {
	case "y", "yes", "true", "t", "on", "1":
		return true, true
	case "n", "no", "false", "f", "off", "0":
		return false, true
	default:
		return false, false
	}
}

// parseSize takes bytes in Kubernetes' notation, as Dapr does.
func parseSize(value string) (int64, bool) {
	q, err := resource.ParseQuantity(value)
	if err != nil {
		return 0, false
	}
	return q.AsInt64()
}

// shortDuration is Go's notation without the parts that are zero.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
