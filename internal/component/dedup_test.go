package component

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/pubsub"
)

func topicStats(t *testing.T, h *house, topic string) pubsub.TopicStats {
	t.Helper()
	topics, err := h.broker().Stats(t.Context(), "", "", 0)
	require.NoError(t, err)
	for _, s := range topics {
		if s.Topic == topic {
			return s
		}
	}
	return pubsub.TopicStats{}
}

// What makes two events the same one, as it goes over the wire.
func TestWhatCountsAsADuplicate(t *testing.T) {
	envelope := func(id, rest string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"s","type":"com.dapr.event.sent"%s}`, id, rest)
	}
	wrapped := func(id, data string) string { return envelope(id, `,"data":`+data) }
	for name, c := range map[string]struct {
		by, a, b string
		once     bool
	}{
		"a CloudEvent behind white space":                {"id", " \r\n\t" + wrapped("1", "1"), wrapped("1", "2"), true},
		"another CloudEvent behind white space":          {"id", "\n" + wrapped("1", "1"), "\n" + wrapped("2", "1"), false},
		"data: CloudEvents without data":                 {"data", envelope("1", ""), envelope("2", ""), false},
		"data: one CloudEvent without data":              {"data", envelope("1", ""), envelope("1", ""), true},
		"data: CloudEvents of empty payloads":            {"data", wrapped("1", `""`), wrapped("2", `""`), false},
		"data: CloudEvents of null":                      {"data", wrapped("1", `null`), wrapped("2", `null`), false},
		"data: the same data":                            {"data", wrapped("1", `"x"`), wrapped("2", `"x"`), true},
		"fields: 1 and 1.0":                              {"fields:n", wrapped("1", `{"n":1}`), wrapped("2", `{"n":1.0}`), true},
		"fields: 100 and 1E2":                            {"fields:n", wrapped("1", `{"n":100}`), wrapped("2", `{"n":1E2}`), true},
		"fields: -0.0 and 0":                             {"fields:n", wrapped("1", `{"n":-0.0}`), wrapped("2", `{"n":0}`), true},
		"fields: 0.01 and 10e-3":                         {"fields:n", wrapped("1", `{"n":0.01}`), wrapped("2", `{"n":10e-3}`), true},
		"fields: 1 and -1":                               {"fields:n", wrapped("1", `{"n":1}`), wrapped("2", `{"n":-1}`), false},
		"fields: 1 and 10":                               {"fields:n", wrapped("1", `{"n":1}`), wrapped("2", `{"n":10}`), false},
		"fields: 0.1 and 0.01":                           {"fields:n", wrapped("1", `{"n":0.1}`), wrapped("2", `{"n":0.01}`), false},
		"fields: integers that a double cannot tell":     {"fields:n", wrapped("1", `{"n":9007199254740992}`), wrapped("2", `{"n":9007199254740993}`), false},
		"fields: 1 and the string 1":                     {"fields:n", wrapped("1", `{"n":1}`), wrapped("2", `{"n":"1"}`), false},
		"fields: an escaped letter":                      {"fields:s", wrapped("1", `{"s":"a"}`), wrapped("2", `{"s":"\u0061"}`), true},
		"fields: members in another order":               {"fields:o", wrapped("1", `{"o":{"a":1,"b":[2, 3]}}`), wrapped("2", `{"o":{"b":[2.0,3],"a":1}}`), true},
		"fields: elements in another order":              {"fields:o", wrapped("1", `{"o":[1,2]}`), wrapped("2", `{"o":[2,1]}`), false},
		"fields: another nesting":                        {"fields:o", wrapped("1", `{"o":[[1],2]}`), wrapped("2", `{"o":[[1,2]]}`), false},
		"fields: of the app's event, wrapped":            {"fields:type,data.id,timestamp", wrapped("1", `{"type":"made","data":{"id":7,"x":1},"timestamp":"t"}`), wrapped("2", `{"type":"made","data":{"id":7,"x":2},"timestamp":"t"}`), true},
		"fields: the app's type, not Dapr's":             {"fields:type", wrapped("1", `{"type":"made"}`), wrapped("2", `{"type":"gone"}`), false},
		"fields: of the app's event, raw":                {"fields:type,data.id,timestamp", `{"type":"made","data":{"id":7,"x":1},"timestamp":"t"}`, `{"timestamp":"t","type":"made","data":{"id":7,"x":2}}`, true},
		"fields: of the app's event, wrapped and raw":    {"fields:type,data.id", wrapped("1", `{"type":"made","data":{"id":7}}`), `{"type":"made","data":{"id":7}}`, true},
		"fields: one is missing in the data":             {"fields:type,data.id", wrapped("1", `{"id":7}`), wrapped("2", `{"id":7}`), true},
		"fields: one is missing, another value in there": {"fields:type,data.id", wrapped("1", `{"id":7,"type":"x"}`), wrapped("2", `{"id":7,"type":"y"}`), true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			bus := h.bus("a", "dedupBy", c.by)
			require.NoError(t, bus.publish("t", c.a))
			require.NoError(t, bus.publish("t", c.b))
			want := uint64(2)
			if c.once {
				want = 1
			}
			require.Equal(t, want, topicStats(t, h, "t").Stored)
		})
	}

	bus := newHouse(t).bus("a", "dedupBy", "fields:type,data.id")
	requireInvalid(t, bus.publish("t", wrapped("1", `{}`)), `invalid payload "without data.id"`)
	requireInvalid(t, bus.publish("t", `{"type":"made"}`), `invalid payload "without data.id"`)
	deep := make([]byte, 1<<20)
	for i := range deep {
		deep[i] = '['
	}
	requireInvalid(t, bus.publish("t", string(deep)), "allowed: JSON")
}

// A short window's ids leave the file though a long window's id came before them.
func TestAnIDThatHasEndedIsForgottenBehindOneThatHasNot(t *testing.T) {
	h, clock := withFakeClock(t)
	require.NoError(t, h.bus("long", "dedupWindow", "720h").publish("t", "x", "eventID", "long"))
	short := h.bus("short", "dedupWindow", "1s")
	for i := range 100 {
		require.NoError(t, short.publish("t", "x", "eventID", fmt.Sprint(i)))
	}
	clock.Advance(time.Second)
	sweeps(t, h, clock)
	require.Equal(t, 1, h.records("ids"), "the long one")
	require.NoError(t, h.bus("long", "dedupWindow", "720h").publish("t", "x", "eventID", "long"))
	require.EqualValues(t, 101, topicStats(t, h, "t").Stored, "the long one is remembered")
}
