package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jonboulle/clockwork"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/dapr-bolt/dapr-bolt/internal/admin"
	"github.com/dapr-bolt/dapr-bolt/internal/databases"
)

// usageError refuses a command line, or the environment's part in it.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

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

// addFlag defines a flag; standard is the default as a user would write it, and stays unparsed: target holds it already.
func addFlag[T any](flags *pflag.FlagSet, target *T, name, standard, kind, usage string, parse func(string) (T, error)) {
	flags.Var(&value[T]{target: target, text: standard, kind: kind, parse: parse}, name, usage)
}

const (
	envPrefix     = "DAPR_BOLT_"
	envAnnotation = "environment"
)

// fromEnv lets a flag be set by the environment variable of its name.
func fromEnv(flags *pflag.FlagSet, name string) {
	flag := flags.Lookup(name)
	variable := envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
	flag.Usage += " [$" + variable + "]"
	flag.Annotations = map[string][]string{envAnnotation: {variable}}
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

func parseFiles(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	files := strings.Split(text, ",")
	for i, file := range files {
		if files[i] = strings.TrimSpace(file); files[i] == "" {
			return nil, errors.New("allowed: paths of component files, separated by commas")
		}
	}
	return files, nil
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

// parseIDNumbers takes the ids of users or groups.
func parseIDNumbers(text string) ([]uint32, error) {
	if text == "" {
		return nil, nil
	}
	var ids []uint32
	for _, each := range strings.Split(text, ",") {
		id, err := strconv.ParseUint(strings.TrimSpace(each), 10, 32)
		if err != nil {
			return nil, errors.New("allowed: numbers of 0 to 4294967295, separated by commas")
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}

func parseCount(text string) (int, error) {
	const most = 1_000_000
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("allowed: 1 to %d", most)
	}
	return n, nil
}

// parseBytes takes a number of bytes in Kubernetes' notation, as the components' metadata does.
func parseBytes(text string) (int64, error) {
	const least, most = 1 << 20, 1 << 40
	q, err := resource.ParseQuantity(text)
	n, whole := q.AsInt64()
	if err != nil || !whole || n < least || n > most {
		return 0, errors.New("allowed: a number of bytes from 1Mi to 1Ti, such as 500000000, 500M or 2Gi")
	}
	return n, nil
}

// byteCount is what parseBytes reads, as people write it.
func byteCount(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }

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

func parseLimit(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > admin.MaxPageSize {
		return 0, fmt.Errorf("allowed: 1 to %d", admin.MaxPageSize)
	}
	return n, nil
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

// exactArgs and atMostOneArg answer wrong counts with the names of what is expected.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usagef("%s behind %s: allowed: %s %s", given(args), cmd.CommandPath(), cmd.CommandPath(), strings.Join(names, " "))
		}
		for i, name := range names {
			if name != fileArg {
				if err := checkText(name, args[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// fileArg is the one argument whose name need not be text.
const fileArg = "FILE"

// checkText refuses an argument that would arrive as another one: JSON, in which the process is asked, has text alone.
func checkText(name, arg string) error {
	if !utf8.ValidString(arg) {
		return usagef("invalid %s %q: allowed: UTF-8", name, arg)
	}
	return nil
}

func atMostOneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("%s behind %s: allowed: at most one %s", given(args), cmd.CommandPath(), name)
		}
		return nil
	}
}

// given names arguments that are too many or too few.
func given(args []string) string {
	if len(args) == 0 {
		return "no arguments"
	}
	return fmt.Sprintf("%s %q", count(len(args), "argument", "arguments"), args)
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown argument %q for %q", args[0], cmd.CommandPath())
	}
	return nil
}

// subcommandArgs answers a subcommand that there is not, with the nearest or with all that there are.
func subcommandArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	hint := "allowed: " + strings.Join(subcommands(cmd), ", ")
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef("unknown command %q for %q: %s", args[0], cmd.CommandPath(), hint)
}

// needsSubcommand answers a command that does nothing by itself.
func needsSubcommand(cmd *cobra.Command, _ []string) error {
	return usagef("%s needs a subcommand: allowed: %s", cmd.CommandPath(), strings.Join(subcommands(cmd), ", "))
}

func subcommands(cmd *cobra.Command) (names []string) {
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}
