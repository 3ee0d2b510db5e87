package harness

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMeterTellsOfALongBuild(t *testing.T) {
	var shown bytes.Buffer
	var o buildOutput
	m := newMeter("building thing", "this takes long", &shown, o.state)
	_, err := fmt.Fprint(&o, "go: downloading example.com/a v1.0.0\nexample.com/a\nexample.com/b\nexam")
	require.NoError(t, err)
	m.show()
	m.show()
	m.stop(nil)
	require.Equal(t, `this takes long
building thing: 0s, 2 packages, example.com/b
building thing: 0s, 2 packages, example.com/b
building thing: done in 0s
`, shown.String())
	require.Contains(t, o.tail(), "example.com/b\nexam")
}

func TestMeterIsSilentAboutAShortBuild(t *testing.T) {
	var shown bytes.Buffer
	m := newMeter("building thing", "this takes long", &shown, func() string { return "" })
	m.stop(errors.New("broken"))
	require.Empty(t, shown.String())
}

func TestBuildOutputKeepsItsEnd(t *testing.T) {
	var o buildOutput
	for i := range 2 * keptLines {
		_, err := fmt.Fprintf(&o, "line %d\n", i)
		require.NoError(t, err)
	}
	require.NotContains(t, o.tail(), fmt.Sprintf("line %d\n", keptLines-1))
	require.Contains(t, o.tail(), fmt.Sprintf("line %d\n", keptLines))
}
