package component

import (
	"log/slog"
	"strings"
	"testing"

	proto "github.com/dapr/dapr/pkg/proto/components/v1"
	"github.com/stretchr/testify/require"
)

func TestEachCallIsLoggedOnce(t *testing.T) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo} {
		h := newHouse(t, func(h *house) { h.level = level })
		c := h.store("orders")
		require.NoError(t, c.set("k", "secret"))
		_, err := c.Set(c.ctx, &proto.SetRequest{Key: "k", Value: []byte("secret"), Etag: &proto.Etag{Value: "no"}})
		require.Error(t, err)

		var sets []string
		for line := range strings.Lines(h.log.String()) {
			if strings.Contains(line, "finished call") && strings.Contains(line, "StateStore/Set ") {
				sets = append(sets, line)
			}
		}
		if level == slog.LevelDebug {
			require.NotEmpty(t, sets)
			require.Contains(t, sets[0], "level=DEBUG")
			require.Contains(t, sets[0], "component=orders grpc.code=OK")
			sets = sets[1:]
		}
		require.Len(t, sets, 1)
		require.Contains(t, sets[0], "level=INFO")
		require.Contains(t, sets[0], "component=orders grpc.code=FailedPrecondition")
		require.Contains(t, sets[0], "grpc.error=")
		require.NotContains(t, h.log.String(), "secret")
	}
}
