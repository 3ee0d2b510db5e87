package boltengine

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dapr-bolt/dapr-bolt/statestore"
	"github.com/dapr-bolt/dapr-bolt/statestore/enginetest"
)

func TestEngineSuite(t *testing.T) {
	dir, files := t.TempDir(), 0
	enginetest.Run(t, func() enginetest.Place {
		files++
		return &place{rig{path: filepath.Join(dir, fmt.Sprint(files))}}
	})
}

// place is a file.
type place struct{ rig }

func (p *place) Open(t require.TestingT) statestore.Engine {
	p.openEngine(t)
	return p.engine
}

func (p *place) Close(t require.TestingT) { require.NoError(t, p.db.Close()) }

func (p *place) Count(t require.TestingT) map[byte]int { return p.count(t) }

func (p *place) CheckIndexes(t require.TestingT) { requireIndexesRight(t, &p.rig) }
