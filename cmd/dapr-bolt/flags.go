package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/user"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

// value is a flag whose text is checked as soon as it is read. parse's error says what is allowed; pflag puts the
// flag's name and the refused text before it.
type value[T any] struct {
	target *T
	text   string
	kind   string
	parse  func(text string) (T, error)
}

func (v *value[T]) Set(text string) error {
	parsed, err := v.parse(text)
	if err != nil {
		return err
	}
	*v.target, v.text = parsed, text
	return nil
}

func (v *value[T]) String() string { return v.text }
func (v *value[T]) Type() string   { return v.kind }

// addFlag defines a flag. What target holds is the default.
func addFlag[T any](flags *pflag.FlagSet, target *T, name, kind, usage string, parse func(string) (T, error)) *pflag.Flag {
	standard := ""
	if v := reflect.ValueOf(target).Elem(); !v.IsZero() || v.Kind() == reflect.Bool {
		standard = fmt.Sprint(*target)
	}
	return flags.VarPF(&value[T]{target: target, text: standard, kind: kind, parse: parse}, name, "", usage)
}

const (
	envPrefix     = "DAPR_BOLT_"
	envAnnotation = "environment"
)

// addEnvFlag is addFlag for a flag that the environment variable of its name sets, too.
func addEnvFlag[T any](flags *pflag.FlagSet, target *T, name, kind, usage string, parse func(string) (T, error)) {
	variable := envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	flag := addFlag(flags, target, name, kind, usage+" [$"+variable+"]", parse)
	flag.Annotations = map[string][]string{envAnnotation: {variable}}
}

// addSwitch adds such a flag that may stand without a value.
func addSwitch(flags *pflag.FlagSet, target *bool, name, usage string) {
	addEnvFlag(flags, target, name, "bool", usage, parseBool)
	flags.Lookup(name).NoOptDefVal = "true"
}

// applyEnv sets the flags that the command line left alone. A variable that is set counts, even when it is empty.
func applyEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) (err error) {
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Changed || err != nil || len(flag.Annotations[envAnnotation]) == 0 {
			return
		}
		variable := flag.Annotations[envAnnotation][0]
		text, ok := lookup(variable)
		if !ok {
			return
		}
		if setErr := flag.Value.Set(text); setErr != nil {
			err = usagef("invalid value %q for environment variable %s (--%s): %w", text, variable, flag.Name, setErr)
		}
	})
	return err
}

func oneOf(allowed ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if !slices.Contains(allowed, text) {
			return "", errors.New("allowed: " + strings.Join(allowed, ", "))
		}
		return text, nil
	}
}

func parsePath(text string) (string, error) {
	if text == "" {
		return "", errors.New("allowed: the path of a directory")
	}
	return text, nil
}

func parseName(text string) (string, error) {
	if err := databases.CheckName("name", text); err != nil {
		return "", err
	}
	return text, nil
}

func parseListen(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	_, port, err := net.SplitHostPort(text)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", errors.New("allowed: host:port with a port of 0 to 65535, or nothing to turn it off")
	}
	return text, nil
}

// listOf takes values of one kind, separated by commas; nothing: there are none.
func listOf[T any](allowed string, parse func(string) (T, error)) func(string) ([]T, error) {
	return func(text string) (list []T, err error) {
		if text == "" {
			return nil, nil
		}
		for each := range strings.SplitSeq(text, ",") {
			one, err := parse(strings.TrimSpace(each))
			if err != nil {
				return nil, errors.New("allowed: " + allowed + ", separated by commas")
			}
			list = append(list, one)
		}
		return list, nil
	}
}

var (
	parseFiles = listOf("paths of component files", parsePath)
	parseHosts = listOf("host names without a port, such as bolt.example.org", func(text string) (string, error) {
		if text == "" || strings.ContainsAny(text, " /:@") {
			return "", errors.New("no host name")
		}
		return text, nil
	})
	parseIDNumbers = listOf("numbers of 0 to 4294967295", func(text string) (uint32, error) {
		id, err := strconv.ParseUint(text, 10, 32)
		return uint32(id), err
	})
	parseCount = upTo(1_000_000)
	parseLimit = upTo(admin.MaxPageSize)
	parsePort  = upTo(1<<16 - 1)
)

// upTo takes a whole number of 1 or more.
func upTo(most int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n < 1 || int(n) > most {
			return 0, fmt.Errorf("allowed: 1 to %d", most)
		}
		return int(n), nil
	}
}

func parseURL(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", errors.New("allowed: the URL of a sidecar's HTTP API, such as http://127.0.0.1:3500")
	}
	return text, nil
}

// parseGroup returns the group's id; nothing: there is none.
func parseGroup(text string) (*int, error) {
	if text == "" {
		return nil, nil
	}
	if id, err := strconv.ParseUint(text, 10, 31); err == nil {
		gid := int(id)
		return &gid, nil
	}
	group, err := user.LookupGroup(text)
	if err != nil {
		return nil, errors.New("allowed: the name or the number of a group of this system")
	}
	gid, err := strconv.Atoi(group.Gid)
	if err != nil {
		return nil, fmt.Errorf("its id %q is no number", group.Gid)
	}
	return &gid, nil
}

// parseBytes takes a number of bytes in Kubernetes' notation, as the components' metadata does.
func parseBytes(text string) (byteCount, error) {
	const least, most = 1 << 20, 1 << 40
	q, err := resource.ParseQuantity(text)
	n, whole := q.AsInt64()
	if err != nil || !whole || n < least || n > most {
		return 0, errors.New("allowed: a number of bytes from 1Mi to 1Ti, such as 500000000, 500M or 2Gi")
	}
	return byteCount(n), nil
}

// byteCount is shown as parseBytes reads it.
type byteCount int64

func (n byteCount) String() string { return resource.NewQuantity(int64(n), resource.BinarySI).String() }

func parseBool(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, errors.New("allowed: true, false")
	}
	return b, nil
}

// parseSince takes a time, or how long ago it was.
func parseSince(clock clockwork.Clock) func(string) (time.Time, error) {
	return func(text string) (time.Time, error) {
		if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
			return clock.Now().Add(-ago), nil
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return at, errors.New("allowed: a duration such as 90m or 24h, or an RFC 3339 time such as 2006-01-02T15:04:05Z")
		}
		return at, nil
	}
}

func parseID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || id == 0 {
		return 0, errors.New("allowed: a whole number of 1 or more")
	}
	return id, nil
}

// parseRate takes "10/s", "30/m" or "100/h" and returns events per second.
func parseRate(text string) (float64, error) {
	count, unit, _ := strings.Cut(text, "/")
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseUint(count, 10, 31)
	if err != nil || n == 0 || seconds == 0 {
		return 0, errors.New("allowed: a whole number of 1 or more and a unit, such as 10/s, 30/m or 100/h")
	}
	return float64(n) / seconds, nil
}

// parseIDArg is parseID for an argument.
func parseIDArg(name, text string) (uint64, error) {
	id, err := parseID(text)
	if err != nil {
		return 0, usagef("invalid %s %q: %w", name, text, err)
	}
	return id, nil
}

// limitFlag is that of a list that comes in pages.
func limitFlag(cmd *cobra.Command, limit *int) {
	*limit = admin.DefaultPageSize
	addFlag(cmd.Flags(), limit, "limit", "count", "how many to list at most", parseLimit)
}

func parseInterval(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 100*time.Millisecond {
		return 0, errors.New("allowed: a duration of at least 100ms, such as 2s")
	}
	return d, nil
}
