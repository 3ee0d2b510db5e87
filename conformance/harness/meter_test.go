package harness

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeterTellsOfALongBuild(t *testing.T) {
	var out bytes.Buffer
	m := newMeter("thing", "this takes long", &out)
	_, err := fmt.Fprint(m, "go: downloading example.com/a v1.0.0\nexample.com/a\nexample.com/b\nexam")
	require.NoError(t, err)
	m.show()
	m.show()
	m.stop(nil)
	require.Equal(t, `this takes long
building thing: 0s, 2 packages, example.com/b
building thing: 0s, 2 packages, example.com/b
built thing in 0s
`, out.String())
	require.Contains(t, m.tail(), "example.com/b\nexam")
}

func TestMeterIsSilentAboutAShortBuild(t *testing.T) {
	var out bytes.Buffer
	m := newMeter("thing", "this takes long", &out)
	m.stop(errors.New("broken"))
	require.Empty(t, out.String())
}

func TestMeterKeepsTheEndOfTheOutput(t *testing.T) {
	m := newMeter("thing", "", nil)
	for i := range 2 * keptLines {
		_, err := fmt.Fprintf(m, "line %d\n", i)
		require.NoError(t, err)
	}
	m.stop(nil)
	require.NotContains(t, m.tail(), fmt.Sprintf("line %d\n", keptLines-1))
	require.Contains(t, m.tail(), fmt.Sprintf("line %d\n", keptLines))
}
