package component

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dapr-bolt/dapr-bolt/internal/invalid"
	"github.com/dapr-bolt/dapr-bolt/internal/resubscribe"
	"github.com/dapr-bolt/dapr-bolt/internal/servers"
	"github.com/dapr-bolt/dapr-bolt/pubsub"
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
	// set changes c only if it returns true: the value is allowed.
	set func(c *C, value string) bool
}

// kind is what the values of a key are: which are allowed, in words, and how one is read.
type kind[V any] struct {
	allowed string
	parse   func(value string) (_ V, ok bool)
}

// newField returns a field of a kind, whose value goes to where of says.
func newField[C, V any](name, preset string, k kind[V], of func(*C) *V, meaning string) field[C] {
	return field[C]{Field{name, preset, k.allowed, meaning}, func(c *C, value string) bool {
		v, ok := k.parse(value)
		if ok {
			*of(c) = v
		}
		return ok
	}}
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
			allowed := "each key once, whatever its case"
			if lower == "consumerid" {
				allowed += "; Dapr adds consumerID to a file that spells it in another way"
			}
			return nil, invalid.New("metadata", key, allowed)
		}
		p[lower] = strings.TrimSpace(given[key])
	}
	return p, nil
}

// defaults returns what a table says for metadata that says nothing.
func defaults[C any](table []field[C]) C {
	var c C
	for _, f := range table {
		if f.Default != "" && !f.set(&c, f.Default) {
			panic(fmt.Sprintf("the default %q of %s is not %s", f.Default, f.Name, f.Allowed))
		}
	}
	return c
}

// override changes in c what p names. Each value that is not allowed is an invalid.Error.
func override[C any](c *C, table []field[C], p properties) error {
	var refused []error
	for _, f := range table {
		value := p[strings.ToLower(f.Name)]
		if value != "" && !f.set(c, value) {
			refused = append(refused, invalid.New(f.Name, value, f.Allowed))
		}
	}
	return errors.Join(refused...)
}

// daprKeys are those that Dapr itself takes from the metadata of a component or a subscription and passes on. Those that
// begin with outbox are Dapr's too.
var daprKeys = []string{
	"actorStateStore", "allowedTopics", "bulkSubscribe", "concurrencyMode", "keyPrefix", "partitionKey",
	"primaryEncryptionKey", "processMode", "protectedTopics", "publishingScopes", "rawPayload", "scopes",
	"secondaryEncryptionKey", "subscriptionScopes",
}

const daprOutboxPrefix = "outbox"

// warnUnused logs one warning for each key that is for an engine which is not used, or that neither we nor Dapr know. They are
// never refused: other components have keys of these names, and Dapr may learn new ones.
func warnUnused(log *slog.Logger, given map[string]string, known, ofOtherEngine []Field) {
	known = append(known, Field{Name: resubscribe.MetadataKey})
	for _, key := range slices.Sorted(maps.Keys(given)) {
		isKey := func(name string) bool { return strings.EqualFold(name, key) }
		isField := func(f Field) bool { return isKey(f.Name) }
		if slices.ContainsFunc(ofOtherEngine, isField) {
			log.Warn("metadata key has no effect: it is for another engine", "key", key)
			continue
		}
		if slices.ContainsFunc(known, isField) || slices.ContainsFunc(daprKeys, isKey) ||
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

// Kinds of several keys.
var (
	kindText = kind[string]{"text", anyText}
	kindPEM  = kind[string]{"a file's path, or the PEM itself", anyText}
	// kindName is for the Backend to check, kindPrefix for nobody else.
	kindName   = kind[string]{nameAllowed, anyText}
	kindPrefix = kind[string]{nameAllowed, func(value string) (string, bool) { return value, validPrefix.MatchString(value) }}
	kindFlag   = kind[bool]{"true or false", parseBool}
	kindWait   = kind[time.Duration]{
		fmt.Sprintf("a duration of 0 or more, up to %d seconds, such as 30s or 168h", pubsub.MaxWait/time.Second),
		durations(0, pubsub.MaxWait),
	}
)

// nameAllowed is what a Backend takes as a name.
const nameAllowed = "letters, digits, - and _"

var validPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func anyText(value string) (string, bool) { return value, true }

// oneOf takes the values as they are written.
func oneOf[V ~string](values ...V) kind[V] {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = string(v)
	}
	return kind[V]{strings.Join(words, " or "), func(value string) (V, bool) { return V(value), slices.Contains(values, V(value)) }}
}

// urls takes URLs of servers with commas between them.
func urls(example string, schemes ...string) kind[string] {
	return kind[string]{"URLs such as " + example + ", with commas between them", func(value string) (string, bool) {
		list := (&servers.Access{Endpoints: value}).List()
		return value, len(list) > 0 && !slices.ContainsFunc(list, func(one string) bool {
			u, err := url.Parse(one)
			return err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme)
		})
	}}
}

// durations takes them in Go's notation, or as a whole number of seconds as Dapr does.
func durations(least, most time.Duration) func(string) (time.Duration, bool) {
	return func(value string) (time.Duration, bool) {
		d, err := time.ParseDuration(value)
		// 32 bits are 68 years, and a time.Duration has room for them.
		if seconds, notWhole := strconv.ParseInt(value, 10, 32); notWhole == nil {
			d, err = time.Duration(seconds)*time.Second, nil
		}
		return d, err == nil && d >= least && d <= most
	}
}

func wholeNumbers(least, most int) func(string) (int, bool) {
	return func(value string) (int, bool) {
		n, err := strconv.Atoi(value)
		return n, err == nil && n >= least && n <= most
	}
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
